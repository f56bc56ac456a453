// examples/provisioning: a thin event for each server at most every 500 ms, its last state never lost, and a full one
// for each task; heard with the real useEcho of @laravel/echo-react.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { configureEcho, echo, useEcho } from '@laravel/echo-react';
import Pusher from 'pusher-js';
import { createElement } from 'react';
import { act, create } from 'react-test-renderer';

import { listenLines, rules, run, subscribed, until } from './example.mjs';
import { RFC_3339, atEnd, authEndpoint, options, ownSockudo } from './support.mjs';

const SERVER = "INSERT INTO servers (id, name) VALUES (7, 'web-1'), (8, 'web-2')";
const update = (db, assignments, id = 7) => db.sql(`UPDATE servers SET ${assignments} WHERE id = ${id}`);
const serverEvents = ({ event }) => event === 'App\\Events\\ServerProvisionUpdated';

/**
 * The example, with the README's lines as the body of a React component. Its Echo is that of echo-react: `run` subscribes
 * to nothing by itself.
 */
async function page(t, before) {
  const server = await ownSockudo();
  configureEcho({ broadcaster: 'pusher', Pusher, key: server.key, ...options(server, await authEndpoint(server)) });
  const heard = { fetchServer: [], taskCompleted: [] };
  const frames = [];
  echo().connector.pusher.connection.bind('message', ({ event, channel, data }) => {
    if (!event.startsWith('pusher')) frames.push({ channel, event, data, at: Date.now() });
  });
  const own = echo();
  atEnd(() => own.disconnect());
  const Component = new Function('useEcho', 'fetchServer', 'taskCompleted', `return function Component() {\n${listenLines('provisioning')}\nreturn null; }`)(
    useEcho, (id) => heard.fetchServer.push(id), (event) => heard.taskCompleted.push(event),
  );
  globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  let tree;
  await act(async () => {
    tree = create(createElement(Component));
  });
  // echo-react remembers a component's channels over all of its Echos: the next test must not find them.
  let mounted = true;
  const leave = async () => {
    if (mounted) await act(async () => tree.unmount());
    mounted = false;
  };
  t.after(leave);
  await subscribed(own);
  const example = await run('provisioning', { server, before });
  const hears = (count, wanted = () => true) =>
    until(`${count} events are heard`, () => frames.filter(wanted).length >= count && frames.filter(wanted), {
      explain: () => `heard: ${JSON.stringify(frames, null, 1)}\n${example.running.explain()}`,
    });
  return { ...example, frames, heard, hears, leave };
}

test('a server: thin, at most one event per 500 ms, and the last state is never lost', async (t) => {
  const { db, frames, heard, hears, spacing, leave, stop } = await page(t, (db) => db.sql(SERVER));

  await update(db, "status = 'running', step = 1");
  await hears(1);
  assert.deepEqual([frames[0].channel, frames[0].event], ['private-servers.7.provision', 'App\\Events\\ServerProvisionUpdated']);
  assert.deepEqual(Object.keys(frames[0].data).sort(), ['server_id', 'timestamp']);
  assert.equal(frames[0].data.server_id, 7);
  assert.match(frames[0].data.timestamp, RFC_3339);
  assert.deepEqual(heard.fetchServer, [7], 'the callback of useEcho');

  // A worker that takes a step every few milliseconds, for two seconds. The front end fetches when it is told to.
  const fetched = [];
  const watching = (async () => {
    while (fetched.at(-1) !== 'done 60') {
      const [known, told] = [fetched.length, heard.fetchServer.length];
      if (told > known + 1) fetched.push(await db.sql("SELECT status || ' ' || step FROM servers WHERE id = 7"));
      else await new Promise((resolve) => setTimeout(resolve, 10));
    }
  })();
  for (let step = 2; step < 60; step += 1) await update(db, `step = ${step}`);
  await update(db, "status = 'done', step = 60");
  await until('the front end has fetched the last state', () => fetched.at(-1) === 'done 60', { explain: () => JSON.stringify({ fetched, frames }) });
  await watching;
  // The last state may be fetched on the event before the last.
  const { gaps, length } = await until('every event is heard', async () => {
    const spaced = await spacing('private-servers.7.provision');
    return frames.filter(serverEvents).length === spaced.gaps.length + 1 && spaced;
  });
  assert.ok(gaps.every((gap) => gap > 400), `gaps: ${gaps}`);
  assert.ok(gaps.length + 1 <= 2 + length / 500, `${gaps.length + 1} events in ${length} ms, for 60 changes`);

  // What is no step and no status is not told; nor is another server's to this channel.
  const before = frames.length;
  await update(db, "log = log || 'a line'");
  await update(db, 'step = step');
  await update(db, 'step = 1', 8);
  await new Promise((resolve) => setTimeout(resolve, 700));
  assert.equal(frames.length, before);

  // The component is gone, and with it the subscription.
  await leave();
  await update(db, 'step = 61');
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(frames.length, before);
  await stop();
});

test('a task: told once, when it is finished, whole and below 1 KB', async (t) => {
  const { db, frames, heard, hears, stop } = await page(t, (db) => db.sql(`${SERVER}; INSERT INTO tasks (id, server_id, name) VALUES (4, 7, 'deploy')`));
  await db.sql("UPDATE tasks SET output = 'compiling' WHERE id = 4");
  await db.sql("UPDATE tasks SET status = 'completed', exit_code = 0, output = 'compiled', finished_at = '2030-01-01 00:00:00Z' WHERE id = 4");
  await hears(1);
  assert.deepEqual([frames[0].channel, frames[0].event], ['private-tasks.4', 'App\\Events\\TaskCompletedEvent']);
  const { finished_at, ...rest } = heard.taskCompleted[0];
  assert.equal(Date.parse(finished_at), Date.parse('2030-01-01T00:00:00Z'));
  assert.deepEqual(rest, { task_id: 4, server_id: 7, name: 'deploy', status: 'completed', exit_code: 0, output: 'compiled' });

  // Told is told. Then it runs again, and is finished again, with the longest texts that there can be.
  await db.sql("UPDATE tasks SET output = 'compiled, and cleaned up' WHERE id = 4");
  await db.sql('UPDATE tasks SET finished_at = NULL WHERE id = 4');
  await db.sql(`UPDATE tasks SET name = repeat(E'\\x01', 60), status = 'failed', exit_code = -2147483648, output = repeat(E'\\x01', 100000), finished_at = now() WHERE id = 4`);
  await hears(2);
  assert.equal(frames.length, 2);
  assert.ok(JSON.stringify(frames[1].data).length < 1024, `${JSON.stringify(frames[1].data).length} bytes`);
  assert.equal(frames[1].data.output.length, 80);
  await stop();
});

test('rules', () => rules('provisioning', 'rules.test.toml'));
