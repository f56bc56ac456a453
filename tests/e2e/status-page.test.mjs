// The daemon's own status page in a real Chromium: it follows the rows without a reload, whatever things are called stays
// text, nothing is asked of anybody else, and it can be read in light, in dark and on a phone.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { HOSTILE, live, LONG, STEERING, statusPage } from './status-page.mjs';
import { until } from './support.mjs';

let db, running, page, open, card, row, insert, allIsWell;
before(async () => {
  ({ db, running, page, open, card, row, insert, allIsWell } = await statusPage());
});

test('rows change, and the page changes with them, without a reload', async () => {
  await page.evaluate(() => {
    window.notReloaded = true;
  });
  await insert('north', 18);
  await row('orders', 'north').getByText('info', { exact: true }).waitFor();
  assert.match(await row('orders', 'north').locator('.reading').first().textContent(), /^18of 20$/);
  await insert('north', 7);
  await row('orders', 'north').getByText('high', { exact: true }).waitFor();
  assert.match(await row('orders', 'north').locator('svg.bar').getAttribute('aria-label'), /^25 of 20, 125 %, high; warning ≥ 20 · high ≥ 24 · critical ≥ 30$/);
  const width = () => row('orders', 'north').locator('rect.reading').getAttribute('width').then(Number);
  const narrow = await width();
  await insert('north', 6);
  await row('orders', 'north').getByText('critical', { exact: true }).waitFor();
  assert.ok((await width()) > narrow, 'the bar is longer');
  assert.equal(await row('orders', 'north').locator('path.step').count(), 2, 'a step for each event');
  const alert = page.locator('#alerts ol.alerts > li').first();
  await alert.getByText('<i>north</i> has 31').waitFor();
  await alert.getByText('delivered').waitFor();
  assert.match(await alert.textContent(), /high→critical escalated/);
  await page.getByRole('heading', { name: 'Alerts of missing are held up' }).waitFor();
  await until('it is spoken', async () => /1 critical open/.test(await page.getByRole('status').textContent()));
  assert.match(await page.title(), /^1 critical open · items-listen$/);
  await db.sql("DELETE FROM orders WHERE tenant = 'north'");
  await page.locator('#alerts').getByText('resolved').waitFor();
  await until('the key is gone', async () => (await row('orders', 'north').count()) === 0);
  assert.equal(await page.evaluate(() => window.notReloaded), true);
});

test('a low stock: the bands run downwards; changes alone have no count; a key may be NULL', async () => {
  await db.sql(`INSERT INTO "<b>stock</b>" VALUES ('MUG-01', 8), ('TEE-XL', 60)`);
  await db.sql('INSERT INTO orders (tenant) VALUES (NULL)');
  await row('stock', 'MUG-01').getByText('critical', { exact: true }).waitFor();
  assert.match(await row('stock', 'MUG-01').locator('svg.bar').getAttribute('aria-label'), /critical < 10$/);
  const bands = await row('stock', 'MUG-01').locator('rect.band').evaluateAll((nodes) => nodes.map((node) => node.getAttribute('class')));
  assert.deepEqual(bands, ['band critical', 'band high', 'band warning', 'band info'], 'from left to right');
  await card('changes').getByText('nothing is counted').waitFor();
  await row('orders', 'NULL').waitFor();
});

test('a breach that is held is said to be, and numbers have their separators', async () => {
  await db.sql('INSERT INTO jobs SELECT FROM generate_series(1, 1234)');
  await row('held', 'all rows').getByText(/beyond the threshold for .*, raised in (59|60) min/).waitFor();
  assert.match(await row('held', 'all rows').textContent(), /1,234of 1,000/);
  await page.locator('#verdict').getByText('not for as long as hold asks yet').waitFor();
});

test('an endpoint that refuses is paused, one that is away backs off, and it is said why, and what waits', async () => {
  const away = page.getByRole('row').filter({ has: page.getByRole('rowheader', { name: 'away' }) });
  await away.getByText('backing off', { exact: true }).waitFor();
  assert.match(await away.textContent(), /no connection, probe/);

  const partner = page.getByRole('row').filter({ has: page.getByRole('rowheader', { name: 'partner' }) });
  await partner.getByText('paused', { exact: true }).waitFor();
  assert.match(await partner.textContent(), /key or secret refused, probe in/);
  await page.locator('#verdict').getByText(/key or secret refused, next probe .* 1 delivery waits; none is lost\./).waitFor();
  await page.locator('#alerts').getByText('the endpoint is paused').first().waitFor();
});

test('whatever things are called stays text', async () => {
  await insert(HOSTILE, 21);
  await insert(LONG, 22);
  await row('orders', HOSTILE).waitFor();
  assert.equal(await row('orders', HOSTILE).locator('.name').textContent(), HOSTILE, 'a key');
  await page.locator('#alerts').getByText(`<i>${HOSTILE}</i> has 21`).waitFor();
  assert.equal(await card('stock').locator('.what').textContent(), 'quantity in public.<b>stock</b>, by sku');
  assert.match(await card('missing').textContent(), /Degraded\..*does not exist/);
  assert.equal(await page.locator('#endpoints .said').first().textContent(), HOSTILE, 'what an endpoint answered');
  assert.equal(await page.locator('#alerts .channel').filter({ hasText: 'on orders' }).first().textContent(), `${HOSTILE} on orders`, 'the name of an event');
  assert.equal(await page.locator('img, main script, b, i, u').count(), 0);
  assert.ok(!(await page.title()).includes('hacked'));
});

test('what steers is spelt out, what is long has its room, and no name is a prototype', async () => {
  const written = Object.entries(STEERING);
  for (const [index, [key]] of written.entries()) await insert(key, 60 + index);
  for (const [index, [, shown]] of written.entries()) {
    await row('orders', shown).waitFor();
    assert.equal(await row('orders', shown).locator('.name').textContent(), shown);
    // (Of a long message the page has its beginning.)
    await page.locator('#alerts').getByText(shown.length > 200 ? `<i>${shown.slice(0, 200)}` : `<i>${shown}</i> has ${60 + index}`).first().waitFor();
  }
  // Too long for any index: it is told as its hash.
  await insert('<script>window.hacked=1</script>'.repeat(220), 90);
  await row('orders', 'long:sha256:').waitFor();
  await insert('__proto__', 91);
  await row('orders', '__proto__').first().waitFor();
  const state = await page.evaluate(() => ({ hacked: window.hacked, polluted: {}.hacked, text: document.body.textContent }));
  assert.deepEqual([state.hacked, state.polluted], [undefined, undefined]);
  assert.doesNotMatch(state.text.replaceAll('\n', ''), /[\p{Cc}\u200b-\u200f\u2028-\u202e\u2060-\u206f]/u);
  assert.equal(await page.locator('main script, main img, main [onload], main [onerror]').count(), 0);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(wide <= 0, 'nothing is wider than the window');
});

test('it can be read in light, in dark, on a phone, by its roles', async () => {
  for (const name of ['Watches', 'Endpoints', 'Recent alerts', 'The way of an alert']) await page.getByRole('heading', { name, level: 2 }).waitFor({ state: 'attached' });
  for (const role of ['banner', 'main', 'contentinfo']) assert.equal(await page.getByRole(role).count(), 1, role);
  assert.deepEqual(await page.locator('#endpoints').getByRole('columnheader').allTextContents(), ['Endpoint', 'State', 'Pending', 'Oldest', 'Dead', 'Last success', 'Last error']);
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    const poor = await page.evaluate(() => {
      const rgb = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
      const ground = (node) => {
        for (let at = node; at; at = at.parentElement) {
          const colour = rgb(getComputedStyle(at).backgroundColor);
          if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
        }
        return [255, 255, 255];
      };
      const luminance = (colour) => {
        const [r, g, b] = colour.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const texts = [...document.querySelectorAll('body *')].filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) && !node.closest('svg, noscript'));
      return texts.map((node) => {
        const [light, dark] = [luminance(rgb(getComputedStyle(node).color).slice(0, 3)), luminance(ground(node))].sort((a, b) => b - a);
        return [`${node.localName}.${node.className}: ${node.textContent.slice(0, 30)}`, (light + 0.05) / (dark + 0.05)];
      }).filter(([, contrast]) => contrast < 4.5);
    });
    assert.deepEqual(poor, [], `every text in ${colorScheme} has a contrast of 4.5 at least`);
    const body = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number)[0]);
    assert.ok(colorScheme === 'light' ? body > 200 : body < 40, `${colorScheme}: ${body}`);
  }
  const phone = await open({ viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
  await live(phone);
  await phone.getByRole('heading', { name: 'Recent alerts' }).waitFor();
  const wide = await phone.evaluate(() => ({
    document: document.documentElement.scrollWidth, window: window.innerWidth,
    nodes: [...document.querySelectorAll('main *')].filter((node) => !node.closest('.spoken, svg, thead') && node.getBoundingClientRect().right > 360.5).map((node) => `${node.localName}.${node.className}`),
  }));
  assert.deepEqual([wide.document <= wide.window, wide.nodes], [true, []], 'nothing is wider than 360 px');
  await phone.close();
});

test('without its script it says where to look', async () => {
  const plain = await open({ javaScriptEnabled: false });
  assert.match(await plain.locator('body').innerText(), /items-listen status in a terminal.*\/api\/status/);
  await plain.close();
});

test('nothing was asked of anybody else, and nothing went wrong', async () => {
  allIsWell();
  await running.stop();
});
