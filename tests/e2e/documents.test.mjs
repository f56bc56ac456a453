// What the documentation gives to a front end: the page of docs/getting-started.md in a real Chromium, and the client of
// docs/delivery-guarantees.md with a real pusher-js.

import assert from 'node:assert/strict';
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';

import { chromium } from 'playwright-core';

import { app, atEnd, configuration, daemon, database, environment, place, pusherClient, until } from './support.mjs';

const documents = join(environment('E2E_EXAMPLES'), '..', 'docs');

/** The first block of a page that is in that language and contains this. */
function block(page, language, part) {
  const text = readFileSync(join(documents, page), 'utf8');
  const found = [...text.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].find(([, info, body]) => info === language && body.includes(part));
  assert.ok(found, `${page} has no ${language} with ${part}`);
  return found[2];
}

test('the page of getting-started shows an alert', async () => {
  const commands = block('getting-started.md', 'sh', 'CREATE TABLE orders');
  const [table, rows] = [...commands.matchAll(/-c "(.*)"$/gm)].map(([, sql]) => sql);
  const watch = block('getting-started.md', 'sh', '[[watch]]').match(/\[\[watch\]\][^]*?(?=EOT)/)[0];
  const db = await database(table);
  await db.sql(rows);
  const here = place(configuration({ url: db.url, watches: watch }));
  await daemon(here);

  const html = block('getting-started.md', 'html', 'new Pusher');
  assert.ok(html.includes("'app-key'") && html.includes('wsPort: 6001'), 'what is put in their place below');
  writeFileSync(join(here.directory, 'orders.html'), html.replace("'app-key'", `'${app.key}'`).replace('wsPort: 6001', `wsPort: ${app.port}`));
  symlinkSync(environment('E2E_PACKAGES'), join(here.directory, 'node_modules'));
  const browser = await chromium.launch({ executablePath: environment('E2E_CHROMIUM'), args: ['--no-sandbox'] });
  atEnd(() => browser.close());
  const page = await browser.newPage();
  await page.goto(String(pathToFileURL(join(here.directory, 'orders.html'))));
  await page.waitForFunction("pusher.channel('tenant.7.orders').subscribed");

  await db.sql('INSERT INTO orders (tenant_id) SELECT 7 FROM generate_series(1, 6)');
  const line = page.getByRole('listitem');
  await line.waitFor();
  assert.equal(await line.textContent(), 'raised: orders {"tenant_id": 7} at 24 of 20');
});

test('the client of delivery-guarantees drops what it has seen and what is late, and fetches after each connect', async () => {
  const here = place(undefined);
  writeFileSync(join(here.directory, 'follow.mjs'), block('delivery-guarantees.md', 'js', 'export function follow'));
  const { follow } = await import(pathToFileURL(join(here.directory, 'follow.mjs')));
  const { pusher } = await pusherClient();
  const [shown, fetched] = [[], []];
  const channel = follow(pusher, 'documents.follow', 'stock.low', { fetchState: () => fetched.push(1), show: (event) => shown.push(event.id) });
  await until('it has fetched', () => fetched.length === 1);

  const event = (id, seq, tenant, transition = 'raised') => ({ id, seq, watch: 'items', key: { tenant_id: tenant }, transition });
  // As pusher-js hands it on.
  const comes = (...of) => channel.emit('stock.low', event(...of));
  comes('a', 8, 7);
  comes('a', 8, 7);
  comes('b', 24, 7);
  comes('late', 16, 7);
  comes('other key', 16, 8);
  assert.deepEqual(shown, ['a', 'b', 'other key']);
  comes('digest', 32, 7, 'digest');
  assert.equal(fetched.length, 2);
  for (let i = 0; i < 2000; i += 1) comes(`many ${i}`, 40 + i, 7);
  comes('many 1999', 2039, 7);
  assert.equal(shown.length, 2003);

  pusher.disconnect();
  pusher.connect();
  await until('it has fetched again', () => fetched.length === 3);
});
