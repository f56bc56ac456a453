// What the end-to-end tests share: a database, a daemon, a subscriber, a Sockudo of one's own.
//
// tests/e2e/run starts PostgreSQL and Sockudo and says in the environment where they are. Every test has its
// own database. Nothing sleeps for a fixed time: conditions are polled, up to a deadline.

import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { createHash, createHmac } from 'node:crypto';
import { appendFileSync, closeSync, mkdtempSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after } from 'node:test';

import Echo from 'laravel-echo';
import Pusher from 'pusher-js';

/** What tests/e2e/run says of this run. */
export const environment = (name) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: these tests are started by tests/e2e/run`);
  return value;
};

const WORK = environment('E2E_WORK');
const DEADLINE = 15_000;
const POLL = 20;

/** The names of the full event, in the design: frozen. */
export const FIELDS = [
  'id', 'alert', 'seq', 'watch', 'key', 'transition', 'reason', 'severity', 'previous', 'count', 'threshold',
  'percent', 'compare', 'message', 'row', 'at', 'unread_count',
];
export const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
export const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/;

/** Waits until `condition` gives something true, and gives that. `explain` is asked when it never does. */
export async function until(what, condition, { deadline = DEADLINE, explain = () => '' } = {}) {
  const end = Date.now() + deadline;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() >= end) assert.fail(`after ${deadline} ms, not yet: ${what}\n${await explain()}`);
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}

// --- Processes: tests/e2e/run ends those that we leave behind, should we be killed. ---

/** When a process was born: in ticks since the boot where there is /proc, otherwise as ps says it. */
function birth(pid) {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')[19];
  } catch {
    return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' }).trim().replace(/\s+/g, ' ');
  }
}

/** Notes a process with its birth, so that its id is not mistaken for a later one's. */
function note(pid) {
  try {
    appendFileSync(join(WORK, 'pids'), `${pid} ${birth(pid)}\n`);
  } catch {
    // It has ended already.
  }
}
note(process.pid);

const ends = [];
/** Something to be done at the end of this file's tests, the last first. */
export const atEnd = (task) => ends.push(task);
after(async () => {
  for (const task of ends.reverse()) await task();
});

/** A process that is ended with this file's tests. */
export function started(command, args, options) {
  const child = spawn(command, args, options);
  const ended = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  ended.catch(() => {});
  if (child.pid) note(child.pid);
  const isRunning = () => child.exitCode === null && child.signalCode === null;
  atEnd(async () => {
    if (!isRunning()) return;
    child.kill('SIGCONT');
    child.kill('SIGKILL');
    await ended;
  });
  return { child, ended, isRunning };
}

/** A port of loopback that is free now. */
const freePort = () =>
  new Promise((resolve, reject) => {
    const server = createTcpServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

// --- Sockudo ---

/** The Sockudo that all tests share. */
export const app = { id: 'e2e-app', key: 'e2e-key', secret: environment('E2E_APP_SECRET'), port: Number(environment('E2E_PORT')) };

/** A Sockudo of one's own, which may be killed and started again on its port. */
export async function ownSockudo() {
  const own = { ...app, port: await freePort(), process: null };
  const metrics = await freePort();
  const directory = mkdtempSync(join(WORK, 'own-sockudo-'));
  own.start = async () => {
    const log = openSync(join(directory, 'log'), 'a');
    own.process = started(environment('E2E_SOCKUDO'), [], {
      cwd: directory,
      stdio: ['ignore', log, log],
      env: {
        PATH: environment('PATH'), HOME: directory, HOST: '127.0.0.1', PORT: String(own.port),
        METRICS_HOST: '127.0.0.1', METRICS_PORT: String(metrics), RATE_LIMITER_ENABLED: 'false',
        SOCKUDO_DEFAULT_APP_ID: own.id, SOCKUDO_DEFAULT_APP_KEY: own.key, SOCKUDO_DEFAULT_APP_SECRET: own.secret,
      },
    });
    closeSync(log);
    const explain = () => readFileSync(join(directory, 'log'), 'utf8').slice(-3000);
    await until('Sockudo is up', async () => {
      assert.ok(own.process.isRunning(), `Sockudo has ended:\n${explain()}`);
      return fetch(`http://127.0.0.1:${own.port}/up`).then((answer) => answer.ok, () => false);
    }, { explain });
  };
  own.kill = async () => {
    own.process.child.kill('SIGKILL');
    await own.process.ended;
  };
  await own.start();
  return own;
}

// --- Subscribers ---

/** The master key of encrypted channels, which the back end and the daemon share. */
export const MASTER_KEY = Buffer.alloc(32, 7).toString('base64');
const sharedSecret = (channel) =>
  createHash('sha256').update(channel).update(Buffer.from(MASTER_KEY, 'base64')).digest('base64');

/** The back end's part: it signs subscriptions to private channels, as Laravel's /broadcasting/auth does. */
export async function authEndpoint({ key, secret }) {
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const form = new URLSearchParams(body);
    const [socket, channel] = [form.get('socket_id'), form.get('channel_name')];
    const isWellFormed = request.url === '/broadcasting/auth' && /^\d+\.\d+$/.test(socket ?? '') && channel;
    const signature = createHmac('sha256', secret).update(`${socket}:${channel}`).digest('hex');
    response.writeHead(isWellFormed ? 200 : 403, { 'content-type': 'application/json' });
    const encryption = channel?.startsWith('private-encrypted-') ? { shared_secret: sharedSecret(channel) } : {};
    response.end(JSON.stringify(isWellFormed ? { auth: `${key}:${signature}`, ...encryption } : { error: 'forbidden' }));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  atEnd(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return `http://127.0.0.1:${server.address().port}/broadcasting/auth`;
}

/** How a front end reaches that server. */
export function options(server, endpoint) {
  return {
    cluster: 'mt1', wsHost: '127.0.0.1', wsPort: server.port, forceTLS: false, enabledTransports: ['ws'],
    enableStats: false, channelAuthorization: { endpoint, transport: 'ajax' },
  };
}

/**
 * A pusher-js client. `heard` has every event of every channel, as `{channel, event, data}`, in the order of
 * arrival.
 */
export async function pusherClient(server = app) {
  const pusher = new Pusher(server.key, options(server, await authEndpoint(server)));
  atEnd(() => pusher.disconnect());
  const heard = [];
  const refused = [];
  return {
    pusher,
    heard,
    refused,
    async subscribe(name) {
      const channel = pusher.subscribe(name);
      channel.bind('pusher:subscription_error', (error) => refused.push({ name, error }));
      channel.bind_global((event, data) => {
        if (!event.startsWith('pusher')) heard.push({ channel: name, event, data });
      });
      await until(`subscribed to ${name}`, () => channel.subscribed, { explain: () => JSON.stringify(refused) });
      return channel;
    },
    /** Waits until so many events that `wanted` accepts have been heard, and gives them. */
    hears(count, wanted = () => true, rest = {}) {
      const found = () => heard.filter(wanted);
      return until(`${count} events are heard`, () => found().length >= count && found(), {
        explain: () => `heard: ${JSON.stringify(heard, null, 1)}`, ...rest,
      });
    },
  };
}

/** A Laravel Echo of the broadcaster `pusher`, configured as a front end configures it. */
export async function echoClient(server = app) {
  const echo = new Echo({ broadcaster: 'pusher', Pusher, key: server.key, ...options(server, await authEndpoint(server)) });
  atEnd(() => echo.disconnect());
  return echo;
}

// --- The database ---

const ITEMS = 'CREATE TABLE public.items (id bigserial PRIMARY KEY, tenant_id bigint NOT NULL, name text)';

let databases = 0;
/** A database of its own with this schema; by default the table `public.items (id, tenant_id, name)`. */
export async function database(schema = ITEMS, name = `e2e_${process.pid}_${(databases += 1)}`) {
  const settings = {
    PATH: environment('PATH'), HOME: WORK, PGHOST: '127.0.0.1', PGPORT: environment('E2E_PGPORT'),
    PGUSER: environment('E2E_PGUSER'), PGPASSWORD: environment('E2E_PGPASSWORD'), PGCONNECT_TIMEOUT: '10',
  };
  const psql = (text, inside = name) =>
    new Promise((resolve, reject) => {
      const child = execFile(
        environment('E2E_PSQL'),
        ['-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', inside],
        { env: settings, encoding: 'utf8' },
        (error, stdout, stderr) => (error ? reject(new Error(`${text}\n${stderr}`)) : resolve(stdout.trim())),
      );
      child.stdin.end(text);
    });
  await psql(`CREATE DATABASE ${name}`, 'postgres');
  await psql(schema);
  const { PGUSER: user, PGPASSWORD: password, PGPORT: port } = settings;
  return {
    url: `postgres://${user}:${password}@127.0.0.1:${port}/${name}`,
    /** Runs SQL in one psql; gives what it prints. */
    sql: psql,
    insert: (tenant, count) =>
      psql(`INSERT INTO items (tenant_id, name) SELECT ${tenant}, 'item ' || i FROM generate_series(1, ${count}) AS i`),
    remove: (tenant, count) =>
      psql(`DELETE FROM items WHERE id IN (SELECT id FROM items WHERE tenant_id = ${tenant} ORDER BY id LIMIT ${count})`),
  };
}

// --- items-listen ---

/** A configuration: the endpoint `main` on the given server, a database, and the watches as TOML. */
export function configuration({ url, watches, server = app, secret = server.secret, endpoint = '' }) {
  return `
[database]
url = "${url}"

[endpoints.main]
url = "http://127.0.0.1:${server.port}"
app_id = "${server.id}"
key = "${server.key}"
secret = "${secret}"
${endpoint}
${watches}

[http]
listen = "127.0.0.1:0"
`;
}

/**
 * The watch of most tests: rows per tenant, of 20; warning from 20, high from 24, critical from 30. Tests that may
 * run at the same time share a Sockudo: each has a channel of its own.
 */
export const items = (channel, more = '') => `
[[watch]]
name = "items"
table = "public.items"
key = ["tenant_id"]
threshold = 20
message = "Tenant {{ key.tenant_id }}: {{ count }} of {{ threshold }}"

[[watch.publish]]
channels = ["${channel}"]
event = "stock.low"
${more}`;

/** A directory with that configuration (none without `text`), to run the program in. */
export function place(text, variables = {}) {
  const directory = mkdtempSync(join(WORK, 'place-'));
  if (text !== undefined) writeFileSync(join(directory, 'config.toml'), text);
  return { directory, env: { PATH: environment('PATH'), HOME: directory, ...variables } };
}

/** Runs a command to its end: `{code, stdout, stderr}`. */
export async function command({ directory, env }, ...args) {
  const { child, ended } = started(environment('E2E_BINARY'), args, { cwd: directory, env, stdio: ['ignore', 'pipe', 'pipe'] });
  const read = async (stream) => {
    let text = '';
    for await (const chunk of stream.setEncoding('utf8')) text += chunk;
    return text;
  };
  const [stdout, stderr, { code, signal }] = await Promise.all([read(child.stdout), read(child.stderr), ended]);
  return { code: code ?? signal, stdout, stderr };
}

/** Starts the daemon and waits for /readyz. */
export async function daemon({ directory, env }) {
  const { child, ended, isRunning } = started(environment('E2E_BINARY'), ['run'], {
    cwd: directory, env, stdio: ['ignore', 'pipe', 'pipe'],
  });
  const log = [];
  const notJson = [];
  const all = () => [...log.map((line) => JSON.stringify(line)), ...notJson].join('\n');
  child.stdout.resume();
  createInterface({ input: child.stderr }).on('line', (line) => {
    try {
      log.push(JSON.parse(line));
    } catch {
      notJson.push(line);
    }
  });
  const alive = () => assert.ok(isRunning(), `the daemon has ended:\n${all()}`);
  const address = await until('the daemon says its address', () => {
    alive();
    return log.find((line) => line.addr)?.addr;
  }, { explain: all });
  await until('the daemon is ready', () => {
    alive();
    return fetch(`http://${address}/readyz`).then((answer) => answer.status === 200, () => false);
  }, { explain: all });
  return {
    address,
    log,
    explain: all,
    signal: (signal) => child.kill(signal),
    /** SIGTERM: it ends by itself with 0, and every line that it logged was JSON. */
    async stop() {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), DEADLINE);
      const end = await ended;
      clearTimeout(timer);
      assert.deepEqual(end, { code: 0, signal: null }, `SIGTERM ends it with 0:\n${all()}`);
      assert.deepEqual(notJson, [], 'its log is JSON');
    },
  };
}

/** Every field of a full event, by name: those given must be equal, those not given are checked for their form. */
export function assertEvent(data, wanted) {
  assert.deepEqual(Object.keys(data).sort(), [...FIELDS].sort(), 'the 17 names of the full event, and no other');
  assert.match(data.id, UUID_V7);
  assert.ok(Number.isSafeInteger(data.seq) && data.seq > 0, `seq is ${data.seq}`);
  assert.match(data.at, RFC_3339);
  const age = Date.now() - Date.parse(data.at);
  assert.ok(Math.abs(age) < 60_000, `at is ${data.at}, ${age} ms ago`);
  for (const [name, value] of Object.entries(wanted)) {
    if (value instanceof RegExp) assert.match(data[name], value, name);
    else assert.deepEqual(data[name], value, `${name} of ${JSON.stringify(data)}`);
  }
  const unnamed = FIELDS.filter((name) => !(name in wanted) && !['id', 'seq', 'at'].includes(name));
  assert.deepEqual(unnamed, [], 'the test says what it wants of every field');
}
