// What goes to a private-encrypted channel only its subscribers can read; and a connection may be left out.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { MASTER_KEY, command, configuration, daemon, database, echoClient, place, pusherClient, until } from './support.mjs';

const watches = (channel, more = '') => `
[[watch]]
name = "notes"
table = "public.notes"

[[watch.publish]]
on = "insert"
channels = [${channel}]
event = "note"
data = { text = "{{ row.text }}" }
${more}`;

test('Echo reads an encrypted channel, and nobody else can', async () => {
  const db = await database();
  await db.sql('CREATE TABLE notes (id bigserial PRIMARY KEY, owner int, text text)');
  const echo = await echoClient();
  const heard = [];
  const channel = echo.encryptedPrivate('notes.7').listen('.note', (event) => heard.push(event));
  const open = await pusherClient();
  await open.subscribe('notes.7');
  await until('Echo is subscribed', () => channel.subscription.subscribed);
  const where = place(configuration({
    url: db.url, endpoint: `encryption_key = "${MASTER_KEY}"`,
    watches: watches('"private-encrypted-notes.{{ row.owner }}", "notes.{{ row.owner }}"'),
  }));
  const running = await daemon(where);
  await db.sql("INSERT INTO notes (owner, text) VALUES (7, 'for your eyes only')");
  await until('it is read', () => heard.length > 0, { explain: running.explain });
  assert.deepEqual(heard, [{ text: 'for your eyes only' }]);
  await open.hears(1);
  // What is stored, and was sent to that channel, is not in clear.
  const listed = await command(where, 'deliveries', 'list', '--json');
  const lines = listed.stdout.trim().split('\n').map((line) => JSON.parse(line));
  const sealed = lines.find((line) => line.channels[0] === 'private-encrypted-notes.7');
  assert.deepEqual(Object.keys(JSON.parse(sealed.body.data)), ['nonce', 'ciphertext']);
  assert.ok(!JSON.stringify(sealed).includes('eyes only'));
  await running.stop();
});

test('without a key nothing is sent in clear', async () => {
  const db = await database();
  await db.sql('CREATE TABLE notes (id bigserial PRIMARY KEY, owner int, text text)');
  const where = place(configuration({ url: db.url, watches: watches('"private-encrypted-dark.{{ row.owner }}"') }));
  const running = await daemon(where);
  await db.sql("INSERT INTO notes (owner, text) VALUES (7, 'canary')");
  const dead = await until('it is dead', async () => {
    const { stdout } = await command(where, 'deliveries', 'list', '--json', '--state', 'dead');
    return stdout.trim() && JSON.parse(stdout.trim());
  }, { explain: running.explain });
  assert.match(dead.answer, /no encryption_key/);
  assert.ok(!JSON.stringify(dead).includes('canary'));
  await running.stop();
});

test('the connection that caused a change need not hear of it', async () => {
  const db = await database();
  await db.sql('CREATE TABLE notes (id bigserial PRIMARY KEY, owner int, text text, socket text)');
  const [author, reader] = [await pusherClient(), await pusherClient()];
  await author.subscribe('shared-notes');
  await reader.subscribe('shared-notes');
  const running = await daemon(place(configuration({
    url: db.url, watches: watches('"shared-notes"', 'socket_id = "{{ row.socket }}"'),
  })));
  await db.sql(`INSERT INTO notes (text, socket) VALUES ('mine', '${author.pusher.connection.socket_id}')`);
  await reader.hears(1);
  await db.sql("INSERT INTO notes (text, socket) VALUES ('all', NULL), ('all', 'no socket')");
  await reader.hears(3);
  await author.hears(2);
  assert.deepEqual(author.heard.map(({ data }) => data.text), ['all', 'all']);
  assert.deepEqual(reader.heard.map(({ data }) => data.text), ['mine', 'all', 'all']);
  await running.stop();
});
