// pg-boss with LISTEN and NOTIFY, which wake its workers, and bursts: a worker goes on at once while its fetches are full.
// Its handlers get several jobs at a time and send them as one batch of up to ten, as Pusher takes them.
//
// A full queue is fetched by several workers. The polls that it needs besides NOTIFY are as often as it allows.

import { PgBoss } from "pg-boss";

import { channel, data, IN_FLIGHT, NAME, pusher } from "./alert.mjs";

const throughput = process.argv[2] === "deliveries";

const boss = new PgBoss({
  connectionString: process.env.DATABASE_URL,
  max: IN_FLIGHT + 2,
  useListenNotify: true,
});
boss.on("error", (error) => console.error(error));
await boss.start();
await boss.createQueue("alert", { notify: true });
await boss.work(
  "alert",
  {
    batchSize: 10,
    localConcurrency: throughput ? IN_FLIGHT : 2,
    burstWhenBatchFull: true,
    pollingIntervalSeconds: 0.5,
    notifyPollingIntervalSeconds: 0.5,
  },
  async (jobs) => {
    const batch = jobs.map((job) => ({ channel: channel(job.data), name: NAME, data: data(job.data) }));
    const response =
      batch.length === 1 ? await pusher.trigger(batch[0].channel, NAME, batch[0].data) : await pusher.triggerBatch(batch);
    await response.text();
  },
);
console.log("ready");
