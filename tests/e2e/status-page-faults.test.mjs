// The status page when something is away: its viewer, a seat, the database, the daemon.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { live, statusPage } from './status-page.mjs';
import { atEnd, until } from './support.mjs';

let shown, db, url, page, open, problems, card, row, insert;
before(async () => {
  shown = await statusPage();
  ({ db, url, page, open, problems, card, row, insert } = shown);
});

test('a page that nobody sees listens to nothing', async () => {
  const hide = (hidden) => page.evaluate((value) => {
    Object.defineProperty(document, 'hidden', { value, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  await hide(true);
  await page.locator('#connection').filter({ hasText: /^paused$/ }).waitFor();
  const reads = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%What the status page shows%' AND pid <> pg_backend_pid()";
  await until('nobody reads', async () => (await db.sql(reads)) === '0');
  await hide(false);
  await live(page);
});

test('a seventeenth page is told that there are sixteen, and goes on when one is closed', async () => {
  const others = [];
  atEnd(() => others.forEach((other) => other.abort()));
  await until('all seats are taken', async () => {
    const other = new AbortController();
    const answer = await fetch(`${url}api/live`, { signal: other.signal });
    if (answer.status === 200) others.push(other);
    return answer.status === 503;
  });
  const known = problems.length;
  const late = await open();
  await late.getByText('16 status pages are open already').waitFor();
  others.forEach((other) => other.abort());
  await live(late);
  await late.close();
  // Chromium names the refused stream on the console; nothing else.
  const named = problems.splice(known);
  assert.deepEqual(named.filter((problem) => !/503 \(Service Unavailable\)|EventSource's response has a MIME type/.test(problem)), []);
});

test('the database goes, and comes back: the page says why nothing is told, keeps what it knew, and goes on by itself', async () => {
  const name = new URL(db.url).pathname.slice(1);
  await db.sql(`ALTER DATABASE ${name} ALLOW_CONNECTIONS false`, 'postgres');
  await db.sql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '${name}'`, 'postgres');
  await page.locator('#verdict').getByText(/Not ready for .*: database .*not currently accepting connections/).waitFor();
  await page.getByRole('heading', { name: 'Alerts are held up' }).waitFor();
  assert.ok(await card('orders').isVisible(), 'what was known stays');
  assert.match(await page.getByRole('main').textContent(), /as of/, 'and is said to be old');
  const other = await open();
  await other.locator('#verdict').getByText('not currently accepting connections').waitFor();
  await other.close();
  await db.sql(`ALTER DATABASE ${name} ALLOW_CONNECTIONS true`, 'postgres');
  await page.getByRole('heading', { name: 'Alerts of missing are held up' }).waitFor();
  await insert('back', 25);
  await row('orders', 'back').getByText('high', { exact: true }).waitFor();
});

test('the daemon goes, and comes back: the page says so, and goes on by itself', async () => {
  const known = problems.length;
  await shown.running.stop();
  await page.getByText(/^no connection to the daemon since \d\d:\d\d:\d\d$/).waitFor();
  await shown.restart();
  await live(page);
  await insert('again', 25);
  await row('orders', 'again').getByText('high', { exact: true }).waitFor();
  const named = problems.splice(known);
  assert.deepEqual(named.filter((problem) => !/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/.test(problem)), []);
});

test('nothing was asked of anybody else, and nothing else went wrong', async () => {
  shown.allIsWell();
  await shown.running.stop();
});
