// What Sockudo does with idempotency keys: it answers a known key from its cache and publishes nothing, it keeps the
// claim of a request that failed, and it delivers the first half of a batch before it refuses the second. None of it
// may cost an event.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { command, configuration, daemon, database, items, place, pusherClient, until } from './support.mjs';

test('two events with the same bytes within the time that keys are remembered are two events', async () => {
  const db = await database();
  const browser = await pusherClient();
  await browser.subscribe('same-bytes');
  const here = place(configuration({ url: db.url, watches: items('same-bytes', 'data = { severity = "{{ severity }}" }') }));
  const running = await daemon(here);
  const heard = () => browser.heard.map(({ data }) => data.severity);
  const wanted = [];
  for (const [change, severity] of [[db.insert, 'warning'], [db.remove, 'info'], [db.insert, 'warning'], [db.remove, 'info']]) {
    await change(7, 21);
    wanted.push(severity);
    await browser.hears(wanted.length, () => true, { explain: running.explain });
  }
  assert.deepEqual(heard(), wanted);
  await running.stop();
});

test('of a batch that Sockudo refuses in the middle only the culprit dies', async () => {
  const db = await database();
  const browser = await pusherClient();
  await Promise.all(['culprit.1', 'culprit.3'].map(browser.subscribe));
  // An application made from the environment takes channel names of up to 100 characters; Pusher takes 164.
  const long = 'x'.repeat(120);
  const channel = `culprit.{{ key.tenant_id }}{% if key.tenant_id == 2 %}${long}{% endif %}`;
  const here = place(configuration({ url: db.url, watches: items(channel) }));
  const running = await daemon(here);
  await db.sql('INSERT INTO items (tenant_id) SELECT t FROM generate_series(1, 3) AS t, generate_series(1, 20)');
  for (const name of ['culprit.1', 'culprit.3']) {
    await browser.hears(1, ({ channel: on }) => on === name, { explain: running.explain });
  }
  const dead = await until('the culprit is dead', async () => {
    const { stdout } = await command(here, 'deliveries', 'list', '--state', 'dead', '--json');
    return stdout.trim() && JSON.parse(stdout);
  }, { explain: running.explain });
  assert.deepEqual([dead.key, dead.reason, dead.status], [{ tenant_id: 2 }, 'rejected', 400]);
  const left = await until('all else is delivered', async () => {
    const pending = await db.sql("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'");
    return pending === '0' && db.sql("SELECT string_agg(state, ' ' ORDER BY key) FROM items_listen.delivery");
  }, { explain: running.explain });
  assert.equal(left, 'delivered dead delivered');
  await running.stop();
});
