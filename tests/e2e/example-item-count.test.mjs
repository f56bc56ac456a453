// examples/item-count: the application's own trigger, the table alone, and a trigger by hand.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { rules, run } from './example.mjs';
import { RFC_3339, UUID_V7 } from './support.mjs';

const ENVIRONMENT = { INVENTORY_NOTIFICATION_THRESHOLD: '20' };
const handlers = ['showItemCount'];

const insert = (db, count) => db.sql(`INSERT INTO items (name) SELECT 'item ' || i FROM generate_series(1, ${count}) AS i`);
const remove = (db, count) => db.sql(`DELETE FROM items WHERE id IN (SELECT id FROM items LIMIT ${count})`);

/** Every field of the payload. */
function assertPayload(data, { severity, count, percentage, threshold = 20 }) {
  const { id, timestamp, ...rest } = data;
  assert.match(id, UUID_V7);
  assert.match(timestamp, RFC_3339);
  assert.deepEqual(rest, { severity, count, threshold, percentage, message: `${count} items, ${percentage} % of ${threshold}` });
}

test("the application's own trigger: every reading, in its class", async () => {
  const { db, frames, heard, hears, stop } = await run('item-count', { handlers, environment: ENVIRONMENT });
  const steps = [
    [() => insert(db, 1), 'info', 1, 5],
    [() => insert(db, 18), 'info', 19, 95],
    [() => insert(db, 1), 'warning', 20, 100],
    [() => insert(db, 3), 'warning', 23, 115],
    [() => insert(db, 1), 'high', 24, 120],
    [() => insert(db, 5), 'high', 29, 145],
    [() => insert(db, 1), 'critical', 30, 150],
    [() => insert(db, 1), 'critical', 31, 155],
    [() => remove(db, 12), 'info', 19, 95],
  ];
  for (const [index, [write, severity, count, percentage]] of steps.entries()) {
    await write();
    await hears(index + 1);
    assert.equal(frames.length, index + 1, 'one event per reading');
    assert.deepEqual([frames[index].channel, frames[index].event], ['inventory', 'App\\Events\\ItemCountExeed']);
    assertPayload(heard.showItemCount[index], { severity, count, percentage });
  }
  await stop();
});

test('the table alone: a change of severity, and nothing else', async () => {
  const { db, frames, heard, hears, written, stop } = await run('item-count', {
    config: 'config-table.toml', handlers, environment: ENVIRONMENT,
    before: (db) => db.sql('DROP TRIGGER tell_item_count ON items'),
  });
  const steps = [
    [() => insert(db, 19)],
    [() => insert(db, 1), 'warning', 20, 100],
    [() => insert(db, 3)],
    [() => insert(db, 1), 'high', 24, 120],
    [() => insert(db, 7), 'critical', 31, 155],
    [() => remove(db, 12), 'info', 19, 95],
  ];
  let told = 0;
  for (const [write, severity, count, percentage] of steps) {
    await write();
    if (severity === undefined) continue;
    told += 1;
    await hears(told);
    assert.deepEqual([frames[told - 1].channel, frames[told - 1].event], ['inventory', 'App\\Events\\ItemCountExeed']);
    assertPayload(heard.showItemCount[told - 1], { severity, count, percentage });
  }
  assert.equal(frames.length, 4);
  assert.equal(await written(), 4, 'of the readings in between nothing was written');
  await stop();
});

test('by hand: --trigger 25, with the threshold of the environment', async () => {
  const { command, frames, heard, hears, stop } = await run('item-count', {
    handlers, environment: { INVENTORY_NOTIFICATION_THRESHOLD: '10' },
  });
  const { code, stdout, stderr } = await command('--trigger', '12');
  assert.equal(code, 0, stdout + stderr);
  await hears(1);
  assert.deepEqual([frames[0].channel, frames[0].event], ['inventory', 'App\\Events\\ItemCountExeed']);
  assertPayload(heard.showItemCount[0], { severity: 'high', count: 12, percentage: 120, threshold: 10 });

  const quiet = await command('--trigger', '9');
  assert.equal(quiet.code, 0);
  assert.match(quiet.stdout, /below min_severity, nothing sent/);
  assert.equal(frames.length, 1);
  await stop();
});

test('rules', () => rules('item-count', 'rules.test.toml', 'rules-table.test.toml'));
