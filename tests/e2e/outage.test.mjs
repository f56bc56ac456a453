// Sockudo is killed and started again while alerts happen: all of them arrive, in order per key.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { atEnd, command, configuration, daemon, database, items, ownSockudo, place, pusherClient, until } from './support.mjs';

const TENANTS = [1, 2, 3, 4];

test('Sockudo killed and started again on its port while alerts happen', async () => {
  const db = await database();
  const server = await ownSockudo();
  const browser = await pusherClient(server);
  const channels = await Promise.all([...TENANTS.map((tenant) => `private-outage.${tenant}`), 'marker'].map(browser.subscribe));
  const watches = items('private-outage.{{ key.tenant_id }}');
  const here = place(configuration({ url: db.url, watches, server, endpoint: 'retry = { initial = "50ms", max = "500ms" }' }));
  const markers = place(configuration({ url: '', watches: items('marker'), server }).replace('[database]\nurl = ""\n', ''));
  const running = await daemon(here);

  // The application: crosses a threshold of each tenant up and down, until it is told to stop.
  let isWriting = true;
  let rounds = 0;
  const written = (async () => {
    for (; isWriting; rounds += 1) {
      for (const tenant of TENANTS) await (rounds % 2 ? db.remove(tenant, 25) : db.insert(tenant, 25));
    }
  })();
  written.catch(() => {});
  atEnd(() => {
    isWriting = false;
    return written.catch(() => {});
  });
  const rounded = (count) => {
    const from = rounds;
    return until(`${count} more rounds are written`, () => rounds >= from + count, { explain: running.explain });
  };
  const unsettled = () => db.sql("SELECT count(*) FROM items_listen.delivery WHERE state = 'pending'").then(Number);

  await browser.hears(8, ({ event }) => event === 'stock.low', { explain: running.explain });

  // Sockudo answers before its subscribers have been written to: killed between the two it loses what it has
  // accepted, which is no doing of ours. So the daemon stands still until a marker has come through.
  running.signal('SIGSTOP');
  const marked = await command(markers, '--trigger', '99', '--key', 'tenant_id=0');
  assert.equal(marked.code, 0, marked.stdout + marked.stderr);
  await browser.hears(1, ({ channel }) => channel === 'marker');
  const connection = browser.pusher.connection;
  const socket = connection.socket_id;
  await server.kill();
  running.signal('SIGCONT');

  await until('deliveries wait for the endpoint', async () => (await unsettled()) >= 8, { explain: running.explain });
  const endpoint = () => fetch(`http://${running.address}/api/status`).then((answer) => answer.json()).then((now) => now.endpoints[0]);
  const down = await until('the endpoint backs off', async () => {
    const now = await endpoint();
    return now.state === 'backing_off' && now;
  }, { explain: running.explain });
  assert.equal(down.reason, 'network');
  assert.equal(down.dead, 0);
  assert.match(down.last_error, /refused/i);
  // For as long as nobody answers, it is never said to be well.
  const before = rounds;
  const said = new Set();
  await until('twelve more rounds are written', async () => {
    said.add((await endpoint()).state);
    return rounds >= before + 12;
  });
  assert.deepEqual([...said], ['backing_off'], running.explain());

  // A browser that is not back yet hears nothing, which is no doing of ours either.
  running.signal('SIGSTOP');
  await server.start();
  // (It would come back by itself, too, up to 15 seconds later.)
  browser.pusher.disconnect();
  browser.pusher.connect();
  const isBack = () => connection.state === 'connected' && connection.socket_id !== socket;
  await until('the browser is back', () => isBack() && channels.every((channel) => channel.subscribed));
  running.signal('SIGCONT');

  await rounded(2);
  isWriting = false;
  await written;
  await until('the last change is folded', async () => (await db.sql('SELECT count(*) FROM items_listen.journal')) === '0');
  // Lanes of a dozen events each: they follow one another, and do not wait for a beat in between.
  await until('everything is settled', async () => (await unsettled()) === 0, {
    deadline: 8_000, explain: async () => `${(await command(here, 'status', '--json')).stdout}\n${running.explain()}`,
  });
  const rows = await db.sql("SELECT id, key ->> 'tenant_id', transition FROM items_listen.event ORDER BY seq");
  const events = rows.split('\n').map((row) => row.split('|'));
  assert.equal(await db.sql("SELECT count(*) FROM items_listen.delivery WHERE state <> 'delivered'"), '0');
  assert.ok(events.length > 16, `only ${events.length} events`);

  const ids = () => new Set(browser.heard.map(({ data }) => data.id));
  await until('every event of the database is heard', () => events.every(([id]) => ids().has(id)), {
    explain: () => `missing: ${JSON.stringify(events.filter(([id]) => !ids().has(id)))}\n${running.explain()}`,
  });
  for (const tenant of TENANTS) {
    const seen = new Set();
    const heard = browser.heard
      .filter(({ channel }) => channel === `private-outage.${tenant}`)
      .map(({ data }) => data)
      // At least once: the same id again is the same event again.
      .filter(({ id }) => !seen.has(id) && seen.add(id));
    const wanted = events.filter(([, key]) => key === String(tenant));
    assert.deepEqual(heard.map(({ id, transition }) => [id, String(tenant), transition]), wanted, `tenant ${tenant}, in order`);
    const seqs = heard.map(({ seq }) => seq);
    assert.deepEqual(seqs, [...seqs].sort((a, b) => a - b));
  }
  await running.stop();
});
