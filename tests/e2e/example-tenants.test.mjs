// examples/tenants: three channels per tenant and one per user, a threshold per tenant, and whichever server the
// application's environment names.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { file, laravel, listen, rules, run, subscribed } from './example.mjs';
import { RFC_3339, app, command, daemon, database, echoClient, place, until } from './support.mjs';

const handlers = ['stockLow', 'stockAdjusted', 'inventoryUpdated', 'productCreated', 'productUpdated', 'notificationCreated', 'notified'];

const TENANTS = `INSERT INTO tenants VALUES (7, 'Seven'), (42, 'Forty-two');
  INSERT INTO products (id, tenant_id, sku, name, price, quantity) VALUES
  (1, 7, 'B-1', 'Bolts', 2.5, 40), (2, 7, 'N-2', 'Nuts', 1.2, 40), (3, 42, 'B-1', 'Bolts', 2.5, 60);
  SELECT setval('products_id_seq', 10)`;
const set = (db, id, assignments) => db.sql(`UPDATE products SET ${assignments} WHERE id = ${id}`);
const on = (event) => (frame) => frame.event === event;

test('each channel of a tenant, each event, field by field', async () => {
  const { db, echo, frames, heard, hears, stop } = await run('tenants', { handlers, before: (db) => db.sql(TENANTS) });
  const other = [];
  echo.private('tenant.42.stock-alerts').listen('.stock.low', (event) => other.push(event));
  echo.private('tenant.42.inventory').listen('.inventory.update', (event) => other.push(event));
  await subscribed(echo);

  await set(db, 1, 'quantity = 12');
  await hears(1, on('inventory.update'));
  assert.deepEqual(heard.inventoryUpdated, [{ product_id: 1, sku: 'B-1', quantity: 12, previous: 40 }]);
  assert.deepEqual(heard.stockLow, [], '12 is above the threshold');

  await set(db, 1, 'quantity = 10');
  await hears(1, on('stock.low'));
  const bolts = { id: 1, tenant_id: 7, sku: 'B-1', name: 'Bolts', price: 2.5, quantity: 10 };
  assert.deepEqual(heard.stockLow, [
    { product: bolts, severity: 'warning', threshold: 10, message: 'Bolts: 10 left', unread_count: 1 },
  ]);
  await set(db, 1, 'quantity = 0');
  await hears(2, on('stock.low'));
  assert.deepEqual(heard.stockLow[1], {
    product: { ...bolts, quantity: 0 }, severity: 'critical', threshold: 10, message: 'Bolts: 0 left', unread_count: 1,
  });
  await hears(3, on('inventory.update'));
  assert.deepEqual(heard.inventoryUpdated.slice(1), [
    { product_id: 1, sku: 'B-1', quantity: 10, previous: 12 }, { product_id: 1, sku: 'B-1', quantity: 0, previous: 10 },
  ]);

  const created = Number(await db.sql("INSERT INTO products (tenant_id, sku, name, price, quantity) VALUES (7, 'W-3', 'Washers', 0.1, 500) RETURNING id"));
  await hears(1, on('product.created'));
  const washers = { id: created, tenant_id: 7, sku: 'W-3', name: 'Washers', price: 0.1, quantity: 500 };
  assert.deepEqual(heard.productCreated, [{ product: washers }]);

  await set(db, created, 'price = 0.2');
  await hears(1, on('product.updated'));
  assert.deepEqual(heard.productUpdated, [{ product: { ...washers, price: 0.2 } }]);

  await db.sql("INSERT INTO stock_adjustments (tenant_id, product_id, delta, reason) VALUES (7, 2, -3, 'broken')");
  await hears(1, on('stock.adjusted'));
  assert.deepEqual(heard.stockAdjusted, [
    { adjustment_id: 1, product: { id: 2, sku: 'N-2', name: 'Nuts', quantity: 40 }, delta: -3, reason: 'broken' },
  ]);

  await db.sql("INSERT INTO tenant_notifications (tenant_id, title, body) VALUES (7, 'Stocktaking', 'On Friday')");
  await hears(1, on('notification.created'));
  const { created_at, ...notification } = heard.notificationCreated[0].notification;
  assert.match(created_at, RFC_3339);
  assert.deepEqual(notification, { id: 1, tenant_id: 7, title: 'Stocktaking', body: 'On Friday' });
  assert.deepEqual(Object.keys(heard.notificationCreated[0]), ['notification']);

  const at = Object.fromEntries(frames.map(({ event, channel }) => [event, channel]));
  assert.deepEqual(at, {
    'inventory.update': 'private-tenant.7.inventory', 'stock.low': 'private-tenant.7.stock-alerts',
    'product.created': 'private-tenant.7.inventory', 'product.updated': 'private-tenant.7.inventory',
    'stock.adjusted': 'private-tenant.7.stock-alerts', 'notification.created': 'private-tenant.7.notifications',
  });
  // Once each: a price is no quantity, and a quantity no price.
  assert.deepEqual(Object.fromEntries(handlers.map((handler) => [handler, heard[handler].length])), {
    stockLow: 2, stockAdjusted: 1, inventoryUpdated: 3, productCreated: 1, productUpdated: 1, notificationCreated: 1, notified: 0,
  });
  assert.deepEqual(other, [], "nothing of one tenant's reaches another's channels");
  await stop();
});

test("a user's notification is what Echo's notification() wants: flat, with id and type", async () => {
  const { db, frames, heard, hears, written, stop } = await run('tenants', { handlers, before: (db) => db.sql(TENANTS) });
  const id = '9f0c1f4e-7c59-4b43-9d43-5f2f0f8a9a11';
  await db.sql(`INSERT INTO notifications (id, type, notifiable_type, notifiable_id, data, created_at, updated_at) VALUES
    ('00000000-0000-4000-8000-000000000001', 'App\\Notifications\\Other', 'App\\Models\\Team', 1, '{"not": "for a user"}', now(), now()),
    ('${id}', 'App\\Notifications\\InvoicePaid', 'App\\Models\\User', 1, '{"invoice_id": 17, "amount": 120.5}', now(), now())`);
  await hears(1);
  assert.deepEqual(heard.notified, [{ id, type: 'App\\Notifications\\InvoicePaid', invoice_id: 17, amount: 120.5 }]);
  const [{ channel, event }] = frames;
  assert.deepEqual([channel, event], ['private-App.Models.User.1', 'Illuminate\\Notifications\\Events\\BroadcastNotificationCreated']);
  await db.sql(`UPDATE notifications SET read_at = now() WHERE id = '${id}'`);
  assert.equal(await written(), 1, 'a team is no user, and what is read is not told again');
  await stop();
});

test("a tenant's threshold, edited in a table, is in force at once", async () => {
  const { db, echo, heard, hears, frames, stop } = await run('tenants', { handlers, before: (db) => db.sql(TENANTS) });
  const other = [];
  echo.private('tenant.42.stock-alerts').listen('.stock.low', (event) => other.push(event));
  await subscribed(echo);

  // The 60 bolts of tenant 42 are few now, without any of its rows being touched.
  await db.sql(`INSERT INTO items_listen.threshold (watch, key, threshold) VALUES ('stock', '{"tenant_id": 42}', 100)`);
  await hears(1, on('stock.low'));
  assert.deepEqual(other.map(({ product, threshold, severity }) => [product.id, product.quantity, threshold, severity]), [[3, 60, 100, 'warning']]);

  await db.sql(`UPDATE items_listen.threshold SET threshold = 50 WHERE watch = 'stock'`);
  await until('it is resolved', async () => (await db.sql(`SELECT reason FROM items_listen.alert WHERE resolved_at IS NOT NULL`)) === 'threshold');
  // Off for this tenant.
  await db.sql(`UPDATE items_listen.threshold SET threshold = NULL WHERE watch = 'stock'`);
  await set(db, 3, 'quantity = 1');
  await set(db, 1, 'quantity = 9');
  await hears(2, on('stock.low'));
  assert.deepEqual(heard.stockLow.map(({ threshold, unread_count }) => [threshold, unread_count]), [[10, 1]], 'tenant 7 has the 10 of the file, and an inbox of its own');
  assert.equal(other.length, 1);
  // Back to the file's.
  await db.sql('DELETE FROM items_listen.threshold');
  await hears(3, on('stock.low'));
  assert.deepEqual(other.map(({ product, threshold, severity }) => [product.quantity, threshold, severity])[1], [1, 10, 'critical']);
  assert.equal(frames.filter(on('stock.low')).length, 3);
  await stop();
});

test('what docs/laravel.md grants to the application is enough, and no more', async () => {
  const { db, hears, heard, stop } = await run('tenants', { handlers, before: (db) => db.sql(`${TENANTS}; CREATE ROLE app`) });
  await set(db, 1, 'quantity = 5');
  await hears(1, on('stock.low'));
  const grants = [...file('..', 'docs/laravel.md').matchAll(/^```sql\n(.*?)^```$/gms)].map(([, block]) => block).join('');
  await db.sql(grants);
  const asApp = (text) => db.sql(`SET ROLE app; ${text}`);
  // As the model in there does it.
  const where = `watch = 'stock' AND key->>'tenant_id' = '7'`;
  assert.equal(await asApp(`SELECT count(*) FROM items_listen.alert WHERE ${where} AND read_at IS NULL`), '1');
  await asApp(`UPDATE items_listen.alert SET read_at = now() WHERE ${where}`);
  assert.equal(await asApp(`SELECT count(*) FROM items_listen.alert WHERE ${where} AND read_at IS NULL`), '0');
  await asApp(`INSERT INTO items_listen.threshold (key, threshold, watch) VALUES ('{"tenant_id":42}', 60, 'stock')
    ON CONFLICT (watch, key) DO UPDATE SET threshold = excluded.threshold`);
  await until("tenant 42's alert is raised", async () => (await asApp("SELECT count(*) FROM items_listen.alert WHERE key->>'tenant_id' = '42'")) === '1');
  for (const forbidden of [
    'UPDATE items_listen.alert SET message = NULL', 'DELETE FROM items_listen.alert', 'SELECT * FROM items_listen.delivery',
    'DELETE FROM items_listen.journal',
  ]) {
    await assert.rejects(asApp(forbidden), /permission denied|cannot delete from view/, forbidden);
  }
  assert.equal(heard.stockLow.length, 1);
  await stop();
});

const pusher = { PUSHER_APP_ID: app.id, PUSHER_APP_KEY: app.key, PUSHER_APP_SECRET: app.secret };
const reverb = {
  REVERB_APP_ID: app.id, REVERB_APP_KEY: app.key, REVERB_APP_SECRET: app.secret, REVERB_HOST: '127.0.0.1',
  REVERB_PORT: String(app.port), REVERB_SCHEME: 'http',
};
const selfHosted = { ...pusher, PUSHER_HOST: '127.0.0.1', PUSHER_PORT: String(app.port), PUSHER_SCHEME: 'http' };

for (const [name, environment] of [
  ['BROADCAST_CONNECTION=reverb', { BROADCAST_CONNECTION: 'reverb', ...reverb }],
  ['BROADCAST_DRIVER=reverb', { BROADCAST_DRIVER: 'reverb', ...reverb }],
  ['BROADCAST_CONNECTION=pusher with a host', { BROADCAST_CONNECTION: 'pusher', ...selfHosted }],
  ['BROADCAST_DRIVER=pusher with a host', { BROADCAST_DRIVER: 'pusher', ...selfHosted }],
]) {
  test(`the server is chosen by ${name}`, async () => {
    const db = await database(`${file('tenants', 'schema.sql')}; ${TENANTS}`);
    const echo = await echoClient();
    const heard = [];
    const nothing = Object.fromEntries(handlers.map((handler) => [handler, () => {}]));
    listen('tenants', { Echo: echo, ...nothing, notified: (event) => heard.push(event) });
    await subscribed(echo);
    const variables = { DATABASE_URL: db.url, ITEMS_LISTEN_HTTP__LISTEN: '127.0.0.1:0', ...environment };
    const running = await daemon(place(file('tenants', 'config.toml'), variables));
    await db.sql(`INSERT INTO notifications (id, type, notifiable_type, notifiable_id, data) VALUES
      ('${crypto.randomUUID()}', 'T', 'App\\Models\\User', 1, '{}')`);
    await until('it is heard', () => heard.length === 1, { explain: running.explain });
    await running.stop();
  });
}

test('Pusher itself is chosen by its cluster', async () => {
  const db = await database(file('tenants', 'schema.sql'));
  const environment = { ...laravel(db, app), PUSHER_APP_CLUSTER: 'eu' };
  for (const name of ['PUSHER_HOST', 'PUSHER_PORT', 'PUSHER_SCHEME']) delete environment[name];
  const { code, stdout, stderr } = await command(place(file('tenants', 'config.toml'), environment), 'check', '--offline');
  assert.equal(code, 0, stdout + stderr);
});

test('rules', () => rules('tenants', 'rules.test.toml'));
