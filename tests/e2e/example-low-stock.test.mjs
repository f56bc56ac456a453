// examples/low-stock: one notification per item and episode, by level, by query, and from a table of the application's.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { rules, run, until } from './example.mjs';
import { RFC_3339, UUID_V7 } from './support.mjs';

const handlers = ['showNotification'];
/** The query's own 30 s are too long for a test. */
const OFTEN = { ITEMS_LISTEN_WATCH__0__EVERY: '200ms' };

const ITEMS = `INSERT INTO items (id, name, sku, quantity) VALUES
  (1, 'Screws', 'S-1', 80), (2, 'Nuts', 'N-2', 80), (3, 'Bolts', 'B-3', 80), (4, 'Washers', 'W-4', 80), (5, 'Nails', 'N-5', 50)`;
const NAMES = { 1: ['Screws', 'S-1'], 2: ['Nuts', 'N-2'], 3: ['Bolts', 'B-3'], 4: ['Washers', 'W-4'] };

const quantity = (db, id, count) => db.sql(`UPDATE items SET quantity = ${count} WHERE id = ${id}`);

/** Every field of what the front end got, and its name and channel on the wire. */
function assertNotification({ channel, event }, data, { id, count, unread }) {
  assert.deepEqual([channel, event], ['notifications', 'NotificationCreated']);
  const { id: alert, created_at, ...rest } = data.notification;
  assert.match(alert, UUID_V7);
  assert.match(created_at, RFC_3339);
  const [name, sku] = NAMES[id];
  assert.deepEqual(rest, { message: `${name}: ${count} left, low is below 50`, item: { id, name, sku, quantity: count }, read_at: null });
  assert.deepEqual(Object.keys(data).sort(), ['notification', 'unread_count']);
  assert.equal(data.unread_count, unread);
}

/** When the daemon has certainly looked at what is committed: at once by trigger, after two runs by query. */
async function looked(db, running, query) {
  if (!query) return;
  await new Promise((resolve) => setTimeout(resolve, 600));
}

for (const [config, environment] of [['config.toml', {}], ['config-query.toml', OFTEN]]) {
  const query = config === 'config-query.toml';

  test(`${config}: one notification per item and episode, and what is read is not counted`, async () => {
    const { db, frames, heard, hears, written, command, running, stop } = await run('low-stock', {
      config, handlers, environment, before: (db) => db.sql(ITEMS),
    });
    const told = heard.showNotification;
    let expected = 0;
    const expectNext = async (wanted) => {
      expected += 1;
      await hears(expected);
      assert.equal(told.length, expected, 'one notification');
      assertNotification(frames[expected - 1], told[expected - 1], wanted);
    };

    await quantity(db, 1, 49);
    await expectNext({ id: 1, count: 49, unread: 1 });

    // It goes on sinking, through every band, while the daemon looks again and again: said is said.
    for (const count of [48, 30, 26]) {
      await quantity(db, 1, count);
      await looked(db, running, query);
    }
    await quantity(db, 2, 40);
    await expectNext({ id: 2, count: 40, unread: 2 });

    // Read by SQL, as the application's own screen does it.
    await db.sql(`UPDATE items_listen.alert SET read_at = now() WHERE id = '${told[0].notification.id}'`);
    await quantity(db, 3, 40);
    await expectNext({ id: 3, count: 40, unread: 2 });

    // Read by hand.
    const read = await command('alerts', 'read', '--watch', 'low-stock', '--key', 'id=2');
    assert.equal(read.code, 0, read.stdout + read.stderr);
    await quantity(db, 4, 40);
    await expectNext({ id: 4, count: 40, unread: 2 });
    const all = await command('alerts', 'read', '--all');
    assert.equal(all.code, 0, all.stdout + all.stderr);

    // Back in stock: nobody is told. Low again: another episode, another notification.
    await quantity(db, 1, 90);
    await until('the episode is over', async () => (await open(db, 1)) === '0');
    await quantity(db, 1, 45);
    await expectNext({ id: 1, count: 45, unread: 1 });
    assert.notEqual(told.at(-1).notification.id, told[0].notification.id);

    // Sold out for good: the row goes, and with it the alert, in silence.
    await db.sql('DELETE FROM items WHERE id = 2');
    await until('the episode is over', async () => (await open(db, 2)) === '0');
    assert.equal(await db.sql(`SELECT reason FROM items_listen.alert WHERE key = '{"id": 2}'`), 'gone');

    const listed = await command('alerts', 'list', '--json');
    assert.equal(listed.code, 0, listed.stderr);
    assert.deepEqual([told.length, await written()], [5, 5], 'five notifications, and nothing else was ever written');
    await stop();
  });
}

const open = (db, id) => db.sql(`SELECT count(*) FROM items_listen.alert WHERE key = '{"id": ${id}}' AND resolved_at IS NULL`);

test('config-own-table.toml: the notifications that the application writes, unread as it counts them', async () => {
  const { db, frames, heard, hears, written, stop } = await run('low-stock', {
    config: 'config-own-table.toml', handlers, before: (db) => db.sql(ITEMS),
  });
  const notify = (id) => db.sql(`INSERT INTO notifications (item_id, message) SELECT id, name || ' are low' FROM items WHERE id = ${id} RETURNING id`);
  const expectNext = async (number, { id, item, name, sku, count, unread }) => {
    await hears(number);
    assert.equal(frames.length, number);
    assert.deepEqual([frames[number - 1].channel, frames[number - 1].event], ['notifications', 'NotificationCreated']);
    const { created_at, ...rest } = heard.showNotification[number - 1].notification;
    assert.match(created_at, RFC_3339);
    assert.deepEqual({ ...heard.showNotification[number - 1], notification: rest }, {
      notification: { id, message: `${name} are low`, item: { id: item, name, sku, quantity: count }, read_at: null }, unread_count: unread,
    });
  };
  await quantity(db, 1, 40);
  const first = Number(await notify(1));
  await expectNext(1, { id: first, item: 1, name: 'Screws', sku: 'S-1', count: 40, unread: 1 });
  const second = Number(await notify(2));
  await expectNext(2, { id: second, item: 2, name: 'Nuts', sku: 'N-2', count: 80, unread: 2 });
  await db.sql('UPDATE notifications SET read_at = now()');
  const third = Number(await notify(3));
  await expectNext(3, { id: third, item: 3, name: 'Bolts', sku: 'B-3', count: 80, unread: 1 });
  // What is rolled back was never there.
  await db.sql(`BEGIN; INSERT INTO notifications (item_id, message) VALUES (4, 'Washers are low'); ROLLBACK`);
  await db.sql('DELETE FROM notifications');
  const fourth = Number(await notify(4));
  await expectNext(4, { id: fourth, item: 4, name: 'Washers', sku: 'W-4', count: 80, unread: 1 });
  assert.equal(await written(), 4);
  await stop();
});

test('rules', () => rules('low-stock', 'rules.test.toml', 'rules-query.test.toml', 'rules-own-table.test.toml'));
