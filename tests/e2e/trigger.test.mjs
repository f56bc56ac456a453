// `items-listen --trigger COUNT`, while no daemon runs.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertEvent, command, configuration, database, items, place, pusherClient } from './support.mjs';

const CHANNEL = 'private-manual.7';

test('--trigger with --json: it arrives, exit 0', async () => {
  const db = await database();
  const browser = await pusherClient();
  await browser.subscribe(CHANNEL);
  const here = place(configuration({ url: db.url, watches: items('private-manual.{{ key.tenant_id }}') }));

  const { code, stdout, stderr } = await command(here, '--trigger', '25', '--key', 'tenant_id=7', '--json');
  assert.equal(code, 0, stdout + stderr);
  const report = JSON.parse(stdout);
  const [delivery] = report.deliveries;
  assert.ok(Number.isInteger(delivery.ms) && delivery.ms >= 0, `ms is ${delivery.ms}`);
  assert.deepEqual(report, {
    watch: 'items', key: { tenant_id: 7 }, count: 25, threshold: 20, percent: 125, severity: 'high',
    deliveries: [
      { endpoint: 'main', channels: [CHANNEL], event: 'stock.low', state: 'delivered', status: 200, reason: null, ms: delivery.ms },
    ],
  });

  const [heard] = await browser.hears(1);
  assert.equal(heard.channel, CHANNEL);
  assert.equal(heard.event, 'stock.low');
  assertEvent(heard.data, {
    watch: 'items', key: { tenant_id: 7 }, alert: null, transition: 'manual', reason: null, severity: 'high', previous: null,
    count: 25, threshold: 20, percent: 125, compare: '>=', message: 'Tenant 7: 25 of 20', row: null,
    unread_count: heard.data.unread_count,
  });

  // The watch's own count and state are left alone.
  assert.equal(await db.sql('SELECT count(*) FROM items_listen.count'), '0');
  assert.equal(await db.sql('SELECT count(*) FROM items_listen.alert'), '0');
});

test('the same for a person: the line of Echo, and whether anybody hears it', async () => {
  const db = await database();
  const here = place(configuration({ url: db.url, watches: items('private-told.{{ key.tenant_id }}') }));
  const line = "Echo.private('told.7').listen('.stock.low'";

  const alone = await command(here, '--trigger', '25', '--key', 'tenant_id=7');
  assert.equal(alone.code, 0, alone.stdout + alone.stderr);
  assert.match(alone.stdout, /\bhigh\b/);
  assert.match(alone.stdout, /125/);
  assert.ok(alone.stdout.includes(line), alone.stdout);
  assert.match(alone.stdout, /nobody is subscribed/);

  const browser = await pusherClient();
  await browser.subscribe('private-told.7');
  const heard = await command(here, '--trigger', '31', '--key', 'tenant_id=7');
  assert.equal(heard.code, 0, heard.stdout + heard.stderr);
  assert.match(heard.stdout, /\bcritical\b/);
  assert.ok(heard.stdout.includes(line), heard.stdout);
  assert.match(heard.stdout, /(somebody is|\b1) subscribed/);
  assert.doesNotMatch(heard.stdout, /nobody/);
  await browser.hears(1);
  assert.deepEqual(browser.heard.map(({ data }) => data.count), [31], 'what was said to nobody is not said again');
});

test('what is below min_severity, or only tried, is not sent', async () => {
  const db = await database();
  const browser = await pusherClient();
  await browser.subscribe('private-quiet.7');
  const here = place(configuration({ url: db.url, watches: items('private-quiet.{{ key.tenant_id }}') }));

  const below = await command(here, '--trigger', '5', '--key', 'tenant_id=7');
  assert.equal(below.code, 0, below.stdout + below.stderr);
  assert.match(below.stdout, /^info\b.*below min_severity, nothing sent/);

  const dry = await command(here, '--trigger', '25', '--key', 'tenant_id=7', '--dry-run');
  assert.equal(dry.code, 0, dry.stdout + dry.stderr);
  assert.ok(dry.stdout.includes("Echo.private('quiet.7').listen('.stock.low'"), dry.stdout);

  // The first thing heard is what was really sent.
  const sent = await command(here, '--trigger', '20', '--key', 'tenant_id=7');
  assert.equal(sent.code, 0, sent.stdout + sent.stderr);
  await browser.hears(1);
  assert.deepEqual(browser.heard.map(({ data }) => data.count), [20]);
});

test('without a database it sends directly', async () => {
  const browser = await pusherClient();
  await browser.subscribe('private-direct.7');
  const text = configuration({ url: '', watches: items('private-direct.{{ key.tenant_id }}') }).replace('[database]\nurl = ""\n', '');
  const { code, stdout, stderr } = await command(place(text), '--trigger', '25', '--key', 'tenant_id=7');
  assert.equal(code, 0, stdout + stderr);
  const [heard] = await browser.hears(1);
  assert.deepEqual([heard.data.transition, heard.data.count, heard.data.severity], ['manual', 25, 'high']);
});
