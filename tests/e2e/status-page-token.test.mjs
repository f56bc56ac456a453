// The status page behind a token, with keys and counts hidden, in a real Chromium: a browser sends the token as a password, with
// the stream as well; without it nothing is shown.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { live, statusPage } from './status-page.mjs';
import { until } from './support.mjs';

const TOKEN = 'a-token-for-this-test-alone';
const known = { httpCredentials: { username: 'anybody', password: TOKEN } };

let url, page, browser, insert, allIsWell;
before(async () => {
  ({ url, page, browser, insert, allIsWell } = await statusPage({ http: `token = "${TOKEN}"\nhide = ["keys", "counts"]\n`, first: known }));
});

test('with the token the page lives, and tells what is left to be told', async () => {
  await insert('somebody-in-person', 4711);
  const alerts = page.locator('#alerts ol.alerts > li').first();
  await alerts.getByText('raised').waitFor();
  await alerts.getByText('delivered').waitFor();
  await page.locator('#verdict').getByText('Not told here: keys and counts.').waitFor();
  await page.getByRole('article').getByText('counts are hidden').first().waitFor();
  const text = await page.evaluate(() => document.documentElement.innerHTML);
  for (const secret of ['somebody-in-person', '4711', '4,711', TOKEN]) assert.ok(!text.includes(secret), `${secret} is shown`);
  assert.equal(await page.getByRole('article').getByText('No key yet').count(), 0, 'what is hidden is not said to be nothing');
  await page.reload();
  await live(page);
  allIsWell();
});

test('without the token, or with another one, there is nothing', async () => {
  for (const options of [{}, { httpCredentials: { username: 'anybody', password: 'another' } }]) {
    const stranger = await (await browser.newContext(options)).newPage();
    const answer = await stranger.goto(url).catch((error) => error);
    const status = typeof answer?.status === 'function' ? answer.status() : String(answer);
    assert.match(String(status), /401|ERR_INVALID_AUTH_CREDENTIALS/);
    // The browser may still be on its way to a page of its own about the refusal.
    await until('its page has nothing', async () => {
      const content = await stranger.content().catch(() => undefined);
      return content !== undefined && !content.includes('id="watches"');
    });
    await stranger.close();
  }
  await until('who asks without it is refused', async () => (await fetch(`${url}api/live`)).status === 401);
});
