// `make demo FOR=forever`, as a person runs it: its page in a real Chromium, in which a badge and a list follow the rows,
// and Ctrl-C, after which nothing of it is left.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';

import { chromium } from 'playwright-core';

import { file, listenLines } from './example.mjs';
import { atEnd, environment, started, until } from './support.mjs';

const demo = environment('E2E_DEMO');
const lines = [];
let running, url, databaseUrl, browser, page;
const requests = [];
const problems = [];

const sql = (text) =>
  new Promise((resolve, reject) => {
    execFile(environment('E2E_PSQL'), ['-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', databaseUrl, '-c', text], { encoding: 'utf8' },
      (error, stdout, stderr) => (error ? reject(new Error(`${text}\n${stderr}`)) : resolve(stdout.trim())));
  });
/** The inbox, as the database has it. */
const unread = () => sql("SELECT count(*) FROM items_listen.alert WHERE watch = 'low-stock' AND read_at IS NULL").then(Number);
const said = (pattern) => lines.map((line) => pattern.exec(line)?.[1]).find(Boolean);

before(async () => {
  assert.ok(existsSync(demo), `${demo} is not there: cargo build --example demo, or set ITEMS_LISTEN_DEMO`);
  running = started(demo, [], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: environment('PATH'), HOME: environment('HOME'), FOR: 'forever', PG_BINDIR: dirname(environment('E2E_PSQL')),
      SOCKUDO: environment('E2E_SOCKUDO'), PACKAGES: environment('E2E_PACKAGES'),
    },
  });
  for (const stream of [running.child.stdout, running.child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => lines.push(line));
  }
  await until('the demo says where its page is', () => {
    assert.ok(running.isRunning(), lines.join('\n'));
    [url, databaseUrl] = [said(/browser, .*: (http:\S+)/), said(/by hand: (postgres:\S+)/)];
    return url && databaseUrl;
  }, { deadline: 45_000, explain: () => lines.join('\n') });
  browser = await chromium.launch({ executablePath: environment('E2E_CHROMIUM'), args: ['--no-sandbox'] });
  atEnd(() => browser.close());
  page = await browser.newPage({ colorScheme: 'light', viewport: { width: 720, height: 640 } });
  page.on('request', (request) => requests.push(request.url()));
  page.on('websocket', (socket) => requests.push(socket.url()));
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && problems.push(message.text()));
  await page.goto(url);
  await page.getByRole('status').filter({ hasText: /^connected$/ }).waitFor();
});
after(async () => {
  if (problems.length > 0) console.error(problems.join('\n'));
});

const badge = () => page.locator('#badge').evaluate((node) => (node.hidden ? 0 : Number(node.textContent)));
const entries = () => page.getByRole('list', { name: 'Notifications' }).getByRole('listitem');
const named = (text) => entries().filter({ hasText: text });
/** An item of the test's own. The shop goes on selling others in the meantime. */
const insert = (name, sku) => sql(`INSERT INTO items (name, sku, quantity) VALUES ('${name.replaceAll("'", "''")}', '${sku}', 60) RETURNING id`).then(Number);

test('the page listens with the line of the README', () => {
  assert.ok(file('low-stock', 'page/page.js').includes(listenLines('low-stock').trim()));
});

test('a badge and a list change as rows change, once per item and episode', async () => {
  const name = `Test pieces & <b>bold</b> <img src=x onerror="document.title='hacked'">`;
  const id = await insert(name, 'T-1');
  await sql(`UPDATE items SET quantity = 49 WHERE id = ${id}`);
  await named('T-1').waitFor();
  assert.equal(await named('T-1').locator('.message').textContent(), `unread: ${name}: 49 left, low is below 50`, 'text, and nothing but text');
  assert.equal(await named('T-1').locator('.item').textContent(), 'SKU T-1');
  assert.equal(await page.locator('#list img, #list b').count(), 0);
  assert.ok((await page.title()).endsWith('Stock'));
  assert.match(await named('T-1').getAttribute('class'), /unread/);
  await until('the badge is what the database says', async () => (await badge()) === (await unread()));
  assert.ok((await badge()) >= 1);

  // Lower still: nothing more. In stock and low again: another.
  await sql(`UPDATE items SET quantity = 48 WHERE id = ${id}`);
  await sql(`UPDATE items SET quantity = 30 WHERE id = ${id}`);
  await sql(`UPDATE items SET quantity = 70 WHERE id = ${id}`);
  await until('the episode is over', async () => (await sql(`SELECT count(*) FROM items_listen.alert WHERE key = '{"id": ${id}}' AND resolved_at IS NULL`)) === '0');
  assert.equal(await named('T-1').count(), 1);
  await sql(`UPDATE items SET quantity = 20 WHERE id = ${id}`);
  await until('there are two', async () => (await named('T-1').count()) === 2);
});

test('marking all as read empties the badge, and the next alert fills it', async () => {
  const button = page.getByRole('button', { name: 'Mark all as read' });
  // By keyboard.
  await button.focus();
  await page.keyboard.press('Enter');
  await until('nothing is unread', async () => (await badge()) <= 1 && (await page.locator('#list .unread').count()) <= 1);
  await until('the badge is what the database says', async () => (await badge()) === (await unread()));
  const id = await insert('Later pieces', 'T-2');
  await sql(`UPDATE items SET quantity = 45 WHERE id = ${id}`);
  await named('T-2').waitFor();
  await until('the badge is what the database says', async () => {
    const [shown, known] = [await badge(), await unread()];
    return shown >= 1 && shown === known;
  });
  assert.match(await page.locator('#badge-text').textContent(), /^\d+ unread$/, 'and it is spoken');
});

test('what is there is there again after a reload', async () => {
  const shown = await entries().count();
  await page.reload();
  await named('T-2').waitFor();
  assert.ok((await entries().count()) >= Math.min(shown, 50));
  assert.equal(await named('T-1').count(), 2);
  await until('the badge is what the database says', async () => (await badge()) === (await unread()));
});

test('the shop alone moves it, too', async () => {
  const known = await sql('SELECT count(*) FROM items_listen.alert').then(Number);
  await until('a new alert of an item of the shop', async () => (await sql("SELECT count(*) FROM items_listen.alert").then(Number)) > known, { deadline: 30_000 });
});

test('light and dark, and every text in both can be read', async () => {
  const colours = {};
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    const found = await page.evaluate(() => {
      const seen = [];
      const rgb = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
      const ground = (node) => {
        for (let at = node; at; at = at.parentElement) {
          const colour = rgb(getComputedStyle(at).backgroundColor);
          if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
        }
        return [255, 255, 255];
      };
      for (const node of document.querySelectorAll('h1, h2, button, #connection, #badge, .message, .item, time')) {
        if (!node.hidden && !node.disabled) seen.push([node.className || node.id || node.localName, rgb(getComputedStyle(node).color), ground(node)]);
      }
      return { seen, body: ground(document.body) };
    });
    const luminance = (colour) => {
      const [r, g, b] = colour.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    for (const [what, ink, ground] of found.seen) {
      const [light, dark] = [luminance(ink), luminance(ground)].sort((a, b) => b - a);
      const contrast = (light + 0.05) / (dark + 0.05);
      assert.ok(contrast >= 4.5, `${what} in ${colorScheme}: ${contrast.toFixed(1)}`);
    }
    colours[colorScheme] = luminance(found.body);
    if (process.env.E2E_WORK) await page.screenshot({ path: `${process.env.E2E_WORK}/page-${colorScheme}.png` });
  }
  assert.ok(colours.light > 0.8 && colours.dark < 0.05, JSON.stringify(colours));
});

test('nothing was asked of anybody else, and nothing went wrong', () => {
  const hosts = new Set(requests.filter((request) => !request.startsWith('data:')).map((request) => new URL(request).hostname));
  assert.deepEqual([...hosts], ['127.0.0.1']);
  assert.deepEqual(problems, []);
});

test('Ctrl-C ends all of it', async () => {
  const children = descendants(running.child.pid);
  assert.ok(children.length >= 3, `two daemons and Sockudo at least: ${JSON.stringify(children)}`);
  const server = Number(await sql('SELECT pg_backend_pid()'));
  assert.ok(server > 0);
  await browser.close();
  running.child.kill('SIGINT');
  assert.deepEqual(await running.ended, { code: 130, signal: null }, lines.slice(-5).join('\n'));
  await until('every process is gone', () => children.every(({ pid, birth }) => bornAt(pid) !== birth), {
    explain: () => JSON.stringify(children.filter(({ pid, birth }) => bornAt(pid) === birth)),
  });
  await assert.rejects(sql('SELECT 1'), 'the database, too');
});

/** All processes below one, each with the time of its birth. */
function descendants(parent) {
  const found = [];
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number)) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      if (Number(stat.replace(/^.*\) /s, '').split(' ')[1]) !== parent) continue;
      found.push({ pid, birth: bornAt(pid), name: stat.replace(/^.*\((.*)\).*$/s, '$1') }, ...descendants(pid));
    } catch {
      // It has ended in the meantime.
    }
  }
  return found;
}

function bornAt(pid) {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ');
    return fields[0] === 'Z' ? null : fields[19];
  } catch {
    return null;
  }
}
