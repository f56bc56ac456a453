// examples/live-refresh: whoever is concerned by a change is told which parts of the screen are out of date, once per
// half second at most.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { rules, run, subscribed, until } from './example.mjs';

const handlers = ['refresh'];
/** The front end of the README is user 7's. Trainer 3 gives two sessions; user 8 has booked the second. */
const ROWS = `
  INSERT INTO children (id, parent_id, name) VALUES (1, 7, 'Ada'), (2, 8, 'Bob');
  INSERT INTO schedules (id, trainer_id, title, starts_at) VALUES (1, 3, 'Swimming', '2030-01-01'), (2, 3, 'Rowing', '2030-01-02');
  INSERT INTO bookings (id, schedule_id, child_id, user_id, trainer_id) VALUES (1, 2, 2, 8, 3);
  SELECT setval('bookings_id_seq', 10), setval('schedules_id_seq', 10), setval('children_id_seq', 10)`;

/** Everybody's screen: what each channel was told, in order. */
async function everybody(example) {
  for (const id of ['3', '8', '9', 'admin']) example.echo.private(`live-refresh.${id}`);
  await subscribed(example.echo);
  return (id) => example.frames.filter(({ channel }) => channel === `private-live-refresh.${id}`);
}
const contexts = (frames) => frames.map(({ data }) => [...data.contexts].sort());

test('the first change at once, the rest of the half second as one, contexts united across the tables', async () => {
  const example = await run('live-refresh', { handlers, before: (db) => db.sql(ROWS) });
  const { db, heard, hears, frames, spacing, stop } = example;
  const of = await everybody(example);

  await db.sql('INSERT INTO bookings (schedule_id, child_id, user_id, trainer_id) VALUES (1, 1, 7, 3)');
  await hears(3);
  assert.deepEqual(heard.refresh, [{ contexts: ['bookings', 'schedules'] }], 'the payload, whole');
  assert.equal(frames.find(({ channel }) => channel === 'private-live-refresh.7').event, 'LiveRefreshContextsUpdated');

  // A burst over four tables, in many transactions.
  await db.sql(`
    INSERT INTO notifications (user_id, body) VALUES (7, 'booked');
    UPDATE bookings SET status = 'confirmed' WHERE user_id = 7;
    UPDATE notifications SET body = 'confirmed' WHERE user_id = 7;
    UPDATE children SET name = 'Ada L.' WHERE id = 1;
    DELETE FROM notifications WHERE user_id = 7;`);
  await hears(2, ({ channel }) => channel === 'private-live-refresh.7');
  await hears(2, ({ channel }) => channel === 'private-live-refresh.3');
  await hears(2, ({ channel }) => channel === 'private-live-refresh.admin');
  assert.deepEqual(contexts(of('7')), [['bookings', 'schedules'], ['bookings', 'children', 'notifications', 'schedules']]);
  assert.deepEqual(contexts(of('3')), [['bookings', 'schedules'], ['bookings', 'children', 'schedules']], "a trainer has nothing of a user's notifications");
  assert.deepEqual(contexts(of('admin')), [['bookings', 'schedules'], ['bookings', 'children', 'notifications', 'schedules']]);
  assert.ok((await spacing('private-live-refresh.7')).gaps[0] > 400);

  // After a quiet time it is at once again.
  await new Promise((resolve) => setTimeout(resolve, 600));
  await db.sql("INSERT INTO notifications (user_id, body) VALUES (7, 'reminder')");
  await hears(3, ({ channel }) => channel === 'private-live-refresh.7');
  const waits = "SELECT due_at > created_at FROM items_listen.delivery WHERE channels = ARRAY['private-live-refresh.7'] ORDER BY id DESC LIMIT 1";
  assert.equal(await db.sql(waits), 'f');
  assert.deepEqual(heard.refresh[2], { contexts: ['notifications'] });

  await hears(3, ({ channel }) => channel === 'private-live-refresh.admin');
  assert.deepEqual([of('8'), of('9')], [[], []], 'nobody else is told of it');
  assert.equal(frames.length, 3 + 2 + 3);
  await stop();
});

test('whom a change concerns: columns of the row, before and after, and a lookup', async () => {
  const example = await run('live-refresh', { handlers, before: (db) => db.sql(ROWS) });
  const { db, hears, frames, stop } = example;
  const of = await everybody(example);
  const told = () => Object.fromEntries(['3', '7', '8', '9', 'admin'].map((id) => [id, contexts(of(id))]).filter(([, list]) => list.length > 0));
  const next = async (count, write) => {
    frames.length = 0;
    await db.sql(write);
    await hears(count);
    const found = told();
    // Beyond the time in which the next ones would be united with these.
    await new Promise((resolve) => setTimeout(resolve, 600));
    assert.equal(frames.length, count, 'and no more');
    return found;
  };
  const schedules = [['schedules']];
  const bookings = [['bookings', 'schedules']];

  assert.deepEqual(await next(3, "UPDATE schedules SET title = 'Sculling' WHERE id = 2"), { 3: schedules, 8: schedules, admin: schedules }, 'a lookup names who has booked');
  assert.deepEqual(await next(2, "UPDATE schedules SET title = 'Diving' WHERE id = 1"), { 3: schedules, admin: schedules }, 'a lookup that finds nobody');
  assert.deepEqual(await next(4, 'UPDATE bookings SET user_id = 9 WHERE id = 1'), { 3: bookings, 8: bookings, 9: bookings, admin: bookings }, 'whoever had it, and whoever has it now');
  assert.deepEqual(await next(3, 'UPDATE bookings SET trainer_id = NULL WHERE id = 1'), { 3: bookings, 9: bookings, admin: bookings });
  assert.deepEqual(await next(2, "UPDATE bookings SET status = 'confirmed' WHERE id = 1"), { 9: bookings, admin: bookings }, 'no trainer, no channel of a trainer');
  const availability = [['availability', 'schedules']];
  assert.deepEqual(await next(2, "INSERT INTO trainer_availability (trainer_id, weekday, hours) VALUES (3, 1, '8-12')"), { 3: availability, admin: availability });
  assert.deepEqual(await next(2, "UPDATE children SET name = 'Bo' WHERE id = 2"), { 8: [['children']], admin: [['children']] }, 'a parent');

  // What a cascade deletes concerns people, too. Whether the administrators hear of both at once or one after the other
  // is a matter of milliseconds.
  frames.length = 0;
  await db.sql('DELETE FROM schedules WHERE id = 2');
  await hears(1, ({ channel }) => channel.endsWith('.9'));
  await hears(1, ({ channel }) => channel.endsWith('.3'));
  await until('the administrators have heard all of it', () => new Set(contexts(of('admin')).flat()).size === 2);
  assert.deepEqual([contexts(of('3')), contexts(of('9'))], [schedules, bookings]);
  await stop();
});

test('rules', () => rules('live-refresh', 'rules.test.toml'));
