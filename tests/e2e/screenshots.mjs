// Not a test: the pictures of the status page in docs/images, taken by a real Chromium of a real daemon (make screenshots).
// The rows, counts, alerts, deliveries and the paused endpoint are real; afterwards the history is spread over the last
// three quarters of an hour, which nobody wants to wait for.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';

import { chromium } from 'playwright-core';

import { app, atEnd, daemon, database, environment, place, until } from './support.mjs';

const SHOP = `
CREATE TABLE public.orders (id bigserial PRIMARY KEY, tenant text NOT NULL, status text NOT NULL DEFAULT 'open');
CREATE TABLE public.stock (sku text PRIMARY KEY, quantity bigint NOT NULL);
CREATE TABLE public.failed_jobs (id bigserial PRIMARY KEY);
CREATE TABLE public.products (id bigserial PRIMARY KEY, price numeric NOT NULL)`;

const publish = (channel, event, more = '') => `
[[watch.publish]]
channels = ["${channel}"]
event = "${event}"
${more}`;
const watches = `
[[watch]]
name = "open-orders"
table = "public.orders"
where = "status = 'open'"
key = ["tenant"]
threshold = 20
message = "{{ key.tenant }} has {{ count }} open orders, {{ threshold }} is the limit"
${publish('private-tenant.{{ key.tenant }}', 'orders.many', 'endpoint = ["main", "partner"]')}

[[watch]]
name = "low-stock"
table = "public.stock"
key = ["sku"]
value = "quantity"
compare = "<"
threshold = 50
message = "{{ key.sku }}: {{ count }} left"
${publish('private-stock', 'stock.low', 'endpoint = "main"')}

[[watch]]
name = "failed-jobs"
table = "public.failed_jobs"
threshold = 10
message = "{{ count }} failed jobs"
${publish('private-operations', 'jobs.failed', 'endpoint = "main"')}

[[watch]]
name = "price-changes"
table = "public.products"
${publish('private-catalogue', 'price.changed', 'on = ["update"]\ncolumns = ["price"]\nendpoint = "main"')}
`;

test('the pictures', async () => {
  const partner = createServer((request, response) => {
    request.resume().on('end', () => response.writeHead(401).end('Invalid signature'));
  });
  await new Promise((resolve) => partner.listen(0, '127.0.0.1', resolve));
  atEnd(() => partner.close());
  const db = await database(SHOP, 'shop');
  const endpoint = (name, port) => `[endpoints.${name}]\nurl = "http://127.0.0.1:${port}"\napp_id = "${app.id}"\nkey = "${app.key}"\nsecret = "${app.secret}"\n`;
  await db.sql("INSERT INTO products (price) VALUES (10), (20)");
  const running = await daemon(place(`
[database]
url = "${db.url}"
${endpoint('main', app.port)}
${endpoint('partner', partner.address().port)}
${watches}
[http]
listen = "127.0.0.1:0"
`));
  const settled = () => until('everything is told', async () =>
    (await db.sql(`SELECT (SELECT count(*) FROM items_listen.journal) + (SELECT count(*) FROM items_listen.count WHERE dirty > 0)
                   + (SELECT count(*) FROM items_listen.delivery WHERE state = 'pending' AND endpoint = 'main')`)) === '0', { explain: running.explain });
  // Step by step of all keys in turn, as it would be.
  const orders = (tenant, change) => (change > 0
    ? `INSERT INTO orders (tenant) SELECT '${tenant}' FROM generate_series(1, ${change})`
    : `DELETE FROM orders WHERE id IN (SELECT id FROM orders WHERE tenant = '${tenant}' LIMIT ${-change})`);
  const stock = (sku, level) => `INSERT INTO stock VALUES ('${sku}', ${level}) ON CONFLICT (sku) DO UPDATE SET quantity = ${level}`;
  const jobs = (_, change) => (change > 0
    ? `INSERT INTO failed_jobs SELECT FROM generate_series(1, ${change})`
    : `DELETE FROM failed_jobs WHERE id IN (SELECT id FROM failed_jobs LIMIT ${-change})`);
  const histories = [
    ...Object.entries({
      northwind: [12, 9, 4, -7, 8, 6], contoso: [18, 3, 4, 3, -6, 9, 3], fabrikam: [20, -3, 4], initech: [16], umbrella: [9, 13, -9, 6, -3, 1], acme: [9], hooli: [4], globex: [2],
    }).map(([tenant, changes]) => changes.map((change) => orders(tenant, change))),
    ...Object.entries({ 'MUG-01': [80, 49, 24, 90, 45, 22, 7], 'TEE-XL': [70, 44, 60, 38], 'CAP-07': [130], 'BAG-11': [64], 'PEN-03': [210], 'ART-20': [88, 30, 95] })
      .map(([sku, levels]) => levels.map((level) => stock(sku, level))),
    [9, 2, -4, 5, 1].map((change) => jobs(null, change)),
  ];
  for (let round = 0; histories.some((history) => history.length > round); round += 1) {
    for (const history of histories.filter((history) => history.length > round)) {
      await db.sql(history[round]);
      await settled();
    }
  }
  await db.sql('UPDATE products SET price = price + 1');
  await settled();
  await until('the partner is paused', async () => (await db.sql("SELECT state FROM items_listen.endpoint WHERE name = 'partner'")) === 'paused');
  // One after the other over the last 45 minutes, deliveries and alerts with their events.
  await db.sql(`
    CREATE TEMP TABLE moved AS
      SELECT id, now() - interval '45 min' * (1 - percent_rank() OVER (ORDER BY seq)) - interval '9 s' AS new_at FROM items_listen.event;
    UPDATE items_listen.delivery d SET created_at = m.new_at, settled_at = m.new_at + (d.settled_at - d.created_at) FROM moved m WHERE m.id = d.event_id;
    UPDATE items_listen.event e SET at = m.new_at FROM moved m WHERE m.id = e.id;
    UPDATE items_listen.episode p SET raised_at = (SELECT min(e.at) FROM items_listen.event e WHERE e.episode = p.id)`);
  const browser = await chromium.launch({ executablePath: environment('E2E_CHROMIUM'), args: ['--no-sandbox'] });
  atEnd(() => browser.close());
  // A picture shows what a window of that size shows.
  for (const [name, colorScheme, viewport, deviceScaleFactor] of [
    ['light', 'light', { width: 1280, height: 1090 }, 1], ['dark', 'dark', { width: 1280, height: 1090 }, 1], ['phone', 'light', { width: 390, height: 1100 }, 1.5],
  ]) {
    const page = await browser.newPage({ colorScheme, viewport, deviceScaleFactor });
    page.on('pageerror', (error) => assert.fail(error));
    await page.goto(`http://${running.address}/`);
    await page.getByText('live', { exact: true }).waitFor();
    await page.getByRole('heading', { name: 'Recent alerts' }).waitFor();
    await page.screenshot({ path: join(environment('E2E_SCREENSHOTS'), `status-${name}.png`) });
    if (process.env.E2E_WHOLE) await page.screenshot({ path: join(environment('E2E_SCREENSHOTS'), `whole-${name}.png`), fullPage: true });
    await page.close();
  }
  assert.equal((await db.sql('SELECT count(*) FROM items_listen.journal')), '0');
  await running.stop();
});
