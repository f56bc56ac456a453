// A wrong secret: said by everything that could be asked, and nothing is lost.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { command, configuration, daemon, database, items, place, pusherClient, until } from './support.mjs';

test('a wrong secret pauses the endpoint; with the right one everything arrives', async () => {
  const db = await database();
  const browser = await pusherClient();
  await browser.subscribe('private-refused.7');
  const watches = items('private-refused.{{ key.tenant_id }}');
  const wrong = place(configuration({ url: db.url, watches, secret: 'not-the-secret' }));
  const right = place(configuration({ url: db.url, watches }));

  const checked = await command(wrong, 'check');
  assert.equal(checked.code, 1, checked.stdout + checked.stderr);
  assert.match(checked.stdout, /refuses our signature/);
  assert.doesNotMatch(checked.stdout + checked.stderr, /not-the-secret/, 'no secret is printed');

  const paused = await daemon(wrong);
  await db.insert(7, 21);
  const status = async () => {
    const { code, stdout, stderr } = await command(wrong, 'status', '--json');
    return { code, stderr, ...JSON.parse(stdout) };
  };
  const found = await until('status says that the endpoint is paused', async () => {
    const now = await status();
    return now.endpoints.some(({ name, state }) => name === 'main' && state === 'paused') && now;
  }, { explain: async () => JSON.stringify(await status()) + paused.explain() });
  const main = found.endpoints.find(({ name }) => name === 'main');
  assert.equal(found.code, 1, 'something is paused');
  assert.equal(main.reason, 'auth');
  assert.equal(main.pending, 1);
  assert.equal(main.dead, 0);
  assert.equal(main.last_success_at, null);
  assert.ok(Date.parse(main.until) > Date.now(), `probed at ${main.until}`);
  assert.match(main.last_error, /401/);
  const served = await fetch(`http://${paused.address}/api/status`).then((answer) => answer.json());
  assert.equal(served.endpoints[0].state, 'paused', '/api/status says the same');
  assert.equal((await fetch(`http://${paused.address}/readyz`)).status, 200, 'a refusing endpoint does not make us unready');

  // More happens meanwhile: kept, too, behind the first.
  await db.insert(7, 4);
  await until('the escalation is kept', async () => (await status()).endpoints[0].pending === 2);
  await paused.stop();
  assert.deepEqual(browser.heard, []);

  const running = await daemon(right);
  await browser.hears(2, () => true, { explain: async () => JSON.stringify([browser.heard, await status()]) + running.explain() });
  const heard = browser.heard.map(({ data }) => [data.transition, data.count]);
  assert.deepEqual(heard, [['raised', 21], ['escalated', 25]], 'all of it, in order');
  const mended = await until('the endpoint is ok', async () => {
    const now = await status();
    return now.code === 0 && now;
  }, { explain: async () => JSON.stringify(await status()) });
  assert.equal(mended.endpoints[0].state, 'ok');
  assert.equal(mended.endpoints[0].pending, 0);
  assert.equal(mended.endpoints[0].reason, null);
  await running.stop();
});

test('--trigger with a wrong secret exits 1 and says why, for a program too', async () => {
  const db = await database();
  const here = place(configuration({ url: db.url, watches: items('private-nobody'), secret: 'not-the-secret' }));
  const { code, stdout, stderr } = await command(here, '--trigger', '25', '--key', 'tenant_id=7', '--json');
  assert.equal(code, 1, stdout + stderr);
  const [delivery] = JSON.parse(stdout).deliveries;
  assert.deepEqual([delivery.state, delivery.status, delivery.reason], ['pending', 401, 'auth']);
});

test('--trigger behind deliveries that wait for a paused endpoint exits 1, too, and does not wait for its timeout', async () => {
  const db = await database();
  const browser = await pusherClient();
  await browser.subscribe('private-behind.7');
  const watches = items('private-behind.{{ key.tenant_id }}');
  const wrong = place(configuration({ url: db.url, watches, secret: 'not-the-secret' }));
  const first = await command(wrong, '--trigger', '25', '--key', 'tenant_id=7');
  assert.equal(first.code, 1, first.stdout + first.stderr);
  assert.match(first.stdout, /401/);

  const second = await command(wrong, '--trigger', '31', '--key', 'tenant_id=7', '--timeout', '10s');
  assert.equal(second.code, 1, second.stdout + second.stderr);

  // Both are in the outbox, and the next daemon with the right secret sends them.
  const running = await daemon(place(configuration({ url: db.url, watches })));
  await browser.hears(2, () => true, { explain: running.explain });
  assert.deepEqual(browser.heard.map(({ data }) => [data.transition, data.count]), [['manual', 25], ['manual', 31]]);
  await running.stop();
});
