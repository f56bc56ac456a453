// What every peer of ours shares: the event that it sends for a row, as long as items-listen's own, and a Pusher client
// that keeps its connections, as its README recommends for many events.

import { randomUUID } from "node:crypto";
import http from "node:http";

import Pusher from "pusher";

const endpoint = new URL(process.env.ENDPOINT);

/** As many requests at once as the daemon of items-listen has by default. */
export const IN_FLIGHT = 8;

export const pusher = new Pusher({
  appId: process.env.APP_ID,
  key: process.env.APP_KEY,
  secret: process.env.APP_SECRET,
  host: endpoint.hostname,
  port: endpoint.port,
  useTLS: false,
  agent: new http.Agent({ keepAlive: true, maxSockets: IN_FLIGHT }),
});

export const channel = (row) => `bench.${row.id}`;
export const NAME = "alert";

/** The same fields as in the events of items-listen. */
export function data(row) {
  return {
    id: randomUUID(),
    alert: randomUUID(),
    seq: row.id,
    watch: "alerts",
    key: { id: row.id },
    transition: "raised",
    reason: "reading",
    severity: "warning",
    previous: "info",
    count: 1,
    threshold: 1,
    percent: 100,
    compare: ">=",
    message: `alerts {"id":${row.id}} at 1 of 1`,
    row: null,
    at: new Date().toISOString(),
    unread_count: 1,
  };
}
