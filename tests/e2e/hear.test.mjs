// Rows are inserted, and browsers hear it: pusher-js on a public channel, Laravel Echo on a private one.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  UUID_V7, app, assertEvent, command, configuration, daemon, database, echoClient, items, place, pusherClient, until,
} from './support.mjs';

const PRIVATE = 'private-tenant.{{ key.tenant_id }}.stock-alerts';

/** What is true of the first alert of tenant 7, at 21 rows of 20. */
const RAISED = {
  watch: 'items',
  key: { tenant_id: 7 },
  alert: UUID_V7,
  transition: 'raised',
  reason: 'reading',
  severity: 'warning',
  previous: 'info',
  count: 21,
  threshold: 20,
  percent: 105,
  compare: '>=',
  message: 'Tenant 7: 21 of 20',
  row: null,
  unread_count: 1,
};

test('pusher-js hears a crossed threshold on a public channel, field by field', async () => {
  const db = await database();
  const browser = await pusherClient();
  await browser.subscribe('inventory.7');
  await browser.subscribe('inventory.8');
  const running = await daemon(place(configuration({ url: db.url, watches: items('inventory.{{ key.tenant_id }}') })));

  await db.insert(8, 19);
  await db.insert(7, 21);
  const [heard] = await browser.hears(1);
  assert.equal(heard.channel, 'inventory.7');
  assert.equal(heard.event, 'stock.low');
  assertEvent(heard.data, RAISED);

  // What stands below its threshold is silent, and what is beyond it is said once: the next event heard is tenant 8's.
  await db.insert(7, 1);
  await db.insert(8, 1);
  await browser.hears(2);
  const at = browser.heard.map(({ channel, data }) => [channel, data.transition, data.count]);
  assert.deepEqual(at, [['inventory.7', 'raised', 21], ['inventory.8', 'raised', 20]]);
  await running.stop();
});

test('Laravel Echo hears both rules on a private channel, with and without the namespace', async () => {
  const db = await database();
  const echo = await echoClient();
  const heard = { low: [], exceeded: [], wrong: [] };
  const channel = echo.private('tenant.7.stock-alerts')
    .listen('.stock.low', (event) => heard.low.push(event))
    .listen('ItemCountExceeded', (event) => heard.exceeded.push(event))
    // Echo makes App\Events\stock\low of this one: nobody sends that.
    .listen('stock.low', (event) => heard.wrong.push(event));
  const frames = [];
  echo.connector.pusher.connection.bind('message', ({ event, channel: name }) => frames.push([name, event]));
  await until('Echo is subscribed', () => channel.subscription.subscribed);

  const second = `
[[watch.publish]]
channels = ["${PRIVATE}"]
event = 'App\\Events\\ItemCountExceeded'
`;
  const running = await daemon(place(configuration({ url: db.url, watches: items(PRIVATE, second) })));
  await db.insert(7, 21);
  await until('both are heard', () => heard.low.length > 0 && heard.exceeded.length > 0, {
    explain: () => JSON.stringify({ heard, frames }),
  });

  assertEvent(heard.low[0], RAISED);
  // One event, two rules: the same event under two names.
  assert.deepEqual(heard.exceeded, heard.low);
  assert.deepEqual(heard.wrong, []);
  const names = frames.filter(([, event]) => !event.startsWith('pusher')).sort();
  assert.deepEqual(names, [
    ['private-tenant.7.stock-alerts', 'App\\Events\\ItemCountExceeded'],
    ['private-tenant.7.stock-alerts', 'stock.low'],
  ]);
  await running.stop();
});

test('rows come and go: raised, escalated, escalated, eased, resolved, and raised again', async () => {
  const db = await database();
  const browser = await pusherClient();
  const name = 'private-rows.3';
  await browser.subscribe(name);
  const running = await daemon(place(configuration({ url: db.url, watches: items('private-rows.{{ key.tenant_id }}') })));

  const steps = [
    [() => db.insert(3, 20), 'raised', 'info', 'warning', 20],
    [() => db.insert(3, 4), 'escalated', 'warning', 'high', 24],
    [() => db.insert(3, 6), 'escalated', 'high', 'critical', 30],
    [() => db.remove(3, 8), 'eased', 'critical', 'warning', 22],
    [() => db.remove(3, 3), 'resolved', 'warning', 'info', 19],
    [() => db.insert(3, 11), 'raised', 'info', 'critical', 30],
  ];
  for (const [index, [write, transition, previous, severity, count]] of steps.entries()) {
    await write();
    const heard = await browser.hears(index + 1);
    assert.equal(heard.length, index + 1, 'one event per step');
    assertEvent(heard[index].data, {
      watch: 'items', key: { tenant_id: 3 }, alert: UUID_V7, transition, reason: 'reading', severity, previous, count,
      threshold: 20, percent: count * 5, compare: '>=', message: `Tenant 3: ${count} of 20`, row: null, unread_count: 1 + (index === 5),
    });
  }
  const data = browser.heard.map((heard) => heard.data);
  const seqs = data.map(({ seq }) => seq);
  assert.deepEqual(seqs, [...seqs].sort((a, b) => a - b), 'seq grows along the key');
  assert.equal(new Set(data.map(({ id }) => id)).size, 6, 'each has an id of its own');
  assert.equal(new Set(data.slice(0, 5).map(({ alert }) => alert)).size, 1, 'one episode from raised to resolved');
  assert.notEqual(data[5].alert, data[0].alert, 'and then another');
  await running.stop();
});

test("an application's own NOTIFY is heard as a reading", async () => {
  const db = await database();
  const browser = await pusherClient();
  await browser.subscribe('notified');
  const watches = `
[[watch]]
name = "stock"
notify = "item_count"
threshold = 20

[[watch.publish]]
channels = ["notified"]
event = 'App\\Events\\ItemCountExceeded'
on = "reading"
`;
  const running = await daemon(place(configuration({ url: db.url, watches })));
  await db.sql("NOTIFY item_count, '25'");
  const [heard] = await browser.hears(1);
  assert.equal(heard.event, 'App\\Events\\ItemCountExceeded');
  assertEvent(heard.data, {
    watch: 'stock', key: {}, alert: heard.data.alert, transition: 'reading', reason: null, severity: 'high', previous: heard.data.previous,
    count: 25, threshold: 20, percent: 125, compare: '>=', message: 'stock {} at 25 of 20', row: null,
    unread_count: heard.data.unread_count,
  });

  // Each reading is said, in both of its forms; what is neither is skipped.
  await db.sql(`NOTIFY item_count, 'many'; NOTIFY item_count, '{"count": 5}'; NOTIFY item_count, '31'`);
  await browser.hears(3);
  assert.deepEqual(browser.heard.map(({ data }) => [data.count, data.severity]), [[25, 'high'], [5, 'info'], [31, 'critical']]);
  await running.stop();
});

test("without a file: a Laravel application's environment is configuration enough", async () => {
  const db = await database();
  const echo = await echoClient();
  const heard = [];
  const channel = echo.channel('inventory').listen('ItemCountExceeded', (event) => heard.push(event));
  await until('Echo is subscribed', () => channel.subscription.subscribed);

  const laravel = place(undefined, {
    DATABASE_URL: db.url,
    BROADCAST_CONNECTION: 'reverb',
    REVERB_APP_ID: app.id,
    REVERB_APP_KEY: app.key,
    REVERB_APP_SECRET: app.secret,
    REVERB_HOST: '127.0.0.1',
    REVERB_PORT: String(app.port),
    REVERB_SCHEME: 'http',
    INVENTORY_NOTIFICATION_THRESHOLD: '10',
    ITEMS_LISTEN_HTTP__LISTEN: '127.0.0.1:0',
  });
  const checked = await command(laravel, 'check');
  assert.equal(checked.code, 0, checked.stdout + checked.stderr);
  const running = await daemon(laravel);
  await db.sql("NOTIFY item_count, '15'");
  await until('the reading is heard', () => heard.length > 0, { explain: running.explain });
  assert.deepEqual([heard[0].count, heard[0].threshold, heard[0].severity], [15, 10, 'critical']);
  await running.stop();
});
