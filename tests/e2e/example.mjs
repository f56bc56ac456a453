// What the tests of examples/ share: an example's files as they are, and its front end, whose lines are taken from the
// README that a reader copies them from.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import {
  app, command, daemon, database, echoClient, environment, ownSockudo, place, until,
} from './support.mjs';

const EXAMPLES = environment('E2E_EXAMPLES');

/** A file of an example, as it is. */
export const file = (name, path) => readFileSync(join(EXAMPLES, name, path), 'utf8');

/** The one block of JavaScript in an example's README: the front end's own lines. */
export function listenLines(name) {
  const blocks = [...file(name, 'README.md').matchAll(/^```js\n(.*?)^```$/gms)].map(([, block]) => block);
  assert.equal(blocks.length, 1, `examples/${name}/README.md has one block of JavaScript`);
  return blocks[0];
}

/** Runs those lines, unchanged, where these names mean these values. */
export function listen(name, names) {
  new Function(...Object.keys(names), listenLines(name))(...Object.values(names));
}

/** What a Laravel application's environment says of a database and of a server that speaks Pusher's protocol. */
export const laravel = (db, server, more = {}) => ({
  DATABASE_URL: db.url,
  BROADCAST_CONNECTION: 'pusher',
  PUSHER_APP_ID: server.id,
  PUSHER_APP_KEY: server.key,
  PUSHER_APP_SECRET: server.secret,
  PUSHER_HOST: '127.0.0.1',
  PUSHER_PORT: String(server.port),
  PUSHER_SCHEME: 'http',
  ITEMS_LISTEN_HTTP__LISTEN: '127.0.0.1:0',
  ...more,
});

/**
 * An example as it is run: its tables in a database of their own, a Sockudo of its own (the channels have the names that
 * they have, and several tests run at once), its configuration with the application's environment and nothing else, and
 * its front end. `handlers` are the functions that the README's lines name; each gets a list of what it was called with
 * under its name in `heard`.
 */
export async function run(name, { config = 'config.toml', handlers = [], environment: more = {}, server, before = () => {} } = {}) {
  const sockudo = server ?? (await ownSockudo());
  const db = await database(file(name, 'schema.sql'));
  await before(db);
  const where = place(file(name, config), laravel(db, sockudo, more));
  const checked = await command(where, 'check');
  assert.equal(checked.code, 0, checked.stdout + checked.stderr);
  const heard = Object.fromEntries(handlers.map((handler) => [handler, []]));
  const bound = handlers.map((handler) => [handler, (event) => heard[handler].push(event)]);
  const echo = await echoClient(sockudo);
  const frames = [];
  echo.connector.pusher.connection.bind('message', ({ event, channel, data }) => {
    if (!event.startsWith('pusher')) frames.push({ channel, event, data, at: Date.now() });
  });
  if (handlers.length > 0) listen(name, { Echo: echo, ...Object.fromEntries(bound) });
  await subscribed(echo);
  const running = await daemon(where);
  return {
    db,
    echo,
    /** What came over the wire: channel, event, data and when, in the order of arrival. */
    frames,
    /** What the front end's handlers were given. */
    heard,
    where,
    sockudo,
    running,
    /** Waits until so many events have come, and gives them. */
    hears: (count, wanted = () => true) => {
      const found = () => frames.filter(wanted);
      return until(`${count} events are heard`, () => found().length >= count && found(), {
        explain: () => `heard: ${JSON.stringify(frames, null, 1)}\n${running.explain()}`,
      });
    },
    /** How many events were ever written for anybody: what is not among them was not sent, and never will be. */
    written: () => db.sql('SELECT count(*) FROM items_listen.delivery').then(Number),
    /**
     * When a channel's events were to be sent, by the database's clock: the milliseconds between them, and from the first
     * to the last. (A receiver's clock also measures how busy the machine is.)
     */
    async spacing(channel) {
      const due = await db.sql(`SELECT round(extract(epoch FROM due_at) * 1000) FROM items_listen.delivery WHERE channels = ARRAY['${channel}'] ORDER BY id`);
      const times = due.split('\n').map(Number);
      return { gaps: times.slice(1).map((at, index) => at - times[index]), length: times.at(-1) - times[0] };
    },
    command: (...args) => command(where, ...args),
    /** The daemon ends well, and nothing that it wrote is unsettled or dead. */
    async stop() {
      await until('everything is delivered', async () => (await undelivered(db)) === '', {
        explain: async () => `${await undelivered(db)}\n${running.explain()}`,
      });
      await running.stop();
    },
  };
}

const undelivered = (db) =>
  db.sql("SELECT event || ' ' || channels::text || ' ' || state || ' ' || coalesce(reason, '') || ' ' || coalesce(answer, '') FROM items_listen.delivery WHERE state <> 'delivered'");

/** Waits until every channel that Echo was asked for is subscribed. */
export const subscribed = (echo) =>
  until('Echo is subscribed', () => Object.values(echo.connector.channels).every(({ subscription }) => subscription.subscribed));

/** Runs an example's rule tests, as its README says. */
export async function rules(name, ...files) {
  const where = place(undefined);
  const paths = files.map((path) => join(EXAMPLES, name, path));
  const { code, stdout, stderr } = await command(where, 'test', ...paths);
  assert.equal(code, 0, `${stdout}\n${stderr}`);
}

export { app, until };
