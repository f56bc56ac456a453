// What the tests of the status page share: a daemon with watches of many kinds, one endpoint that takes events and one that
// refuses them, things with hostile names, and a real Chromium that notes all that it asks for and all that goes wrong.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { createServer as createTcpServer } from 'node:net';

import { chromium } from 'playwright-core';

import { app, atEnd, daemon, database, environment, place } from './support.mjs';

export const HOSTILE = `<img src=x onerror="document.title='hacked'"><script>document.title='hacked'</script>&amp;'`;
export const LONG = 'x'.repeat(400);
/** What else somebody may write, and how it is shown. */
export const STEERING = {
  '\u202egnp.exe\u2069\u200b': '\\u{202e}gnp.exe\\u{2069}\\u{200b}',
  '\u001b]52;c;x\u0007\u009b2J\r\n\tend': '\\u{1b}]52;c;x\\u{7}\\u{9b}2J\\r\\n\\tend',
  __proto__x: '__proto__x',
  ['{"__proto__": {"hacked": 1}}']: '{"__proto__": {"hacked": 1}}',
  [`"><svg onload=window.hacked=1>${'<a href=javascript:window.hacked=1>'.repeat(40)}`]: `"><svg onload=window.hacked=1>${'<a href=javascript:window.hacked=1>'.repeat(40)}`,
};
const quoted = (text) => text.replaceAll("'", "''");
const toml = (text) => JSON.stringify(text);

const SCHEMA = `
CREATE TABLE public.jobs (id bigserial PRIMARY KEY);
CREATE TABLE public.orders (id bigserial PRIMARY KEY, tenant text, status text NOT NULL DEFAULT 'open');
CREATE TABLE public."<b>stock</b>" (sku text PRIMARY KEY, quantity bigint NOT NULL)`;

const watches = `
[[watch]]
name = "orders"
table = "public.orders"
where = "status = 'open'"
key = ["tenant"]
threshold = 20
message = "<i>{{ key.tenant }}</i> has {{ count }}"
[[watch.publish]]
channels = ["orders"]
event = ${toml(HOSTILE)}
endpoint = "main"

[[watch]]
name = "stock"
table = '"<b>stock</b>"'
key = ["sku"]
value = "quantity"
compare = "<"
threshold = 50
[[watch.publish]]
channels = ["stock"]
event = "stock.low"
endpoint = ["main", "partner", "away"]

[[watch]]
name = "changes"
table = '"<b>stock</b>"'
[[watch.publish]]
channels = ["stock"]
event = "stock.changed"
on = ["delete"]
endpoint = "main"

[[watch]]
name = "held"
table = "public.jobs"
threshold = 1000
hold = "1h"
[[watch.publish]]
channels = ["held"]
event = "held"
endpoint = "main"

[[watch]]
name = "missing"
table = '"<u>gone</u>"'
threshold = 1
[[watch.publish]]
channels = ["missing"]
event = "missing"
endpoint = "main"
`;

const freePort = () =>
  new Promise((resolve, reject) => {
    const server = createTcpServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });


/** All of it, with one page open. `http` is added to [http]; `first` are options of that page. */
export async function statusPage({ http = '', first = {} } = {}) {
  const partner = createServer((request, response) => {
    request.resume().on('end', () => response.writeHead(401).end(HOSTILE));
  });
  await new Promise((resolve) => partner.listen(0, '127.0.0.1', resolve));
  atEnd(() => partner.close());
  const db = await database(SCHEMA);
  const endpoint = (name, port) => `[endpoints.${name}]\nurl = "http://127.0.0.1:${port}"\napp_id = "${app.id}"\nkey = "${app.key}"\nsecret = "${app.secret}"\n`;
  const port = await freePort();
  const here = place(`[database]\nurl = "${db.url}"\n${endpoint('main', app.port)}${endpoint('partner', partner.address().port)}${endpoint('away', await freePort())}${watches}\n[http]\nlisten = "127.0.0.1:${port}"\n${http}`);
  const running = await daemon(here);
  const url = `http://127.0.0.1:${port}/`;
  const browser = await chromium.launch({ executablePath: environment('E2E_CHROMIUM'), args: ['--no-sandbox'] });
  atEnd(() => browser.close());
  const requests = [];
  const problems = [];

  /** Opens the page once more. */
  const open = async (options = {}) => {
    const opened = await browser.newPage({ colorScheme: 'light', viewport: { width: 1280, height: 900 }, ...options });
    opened.on('request', (request) => requests.push(request.url()));
    opened.on('pageerror', (error) => problems.push(String(error)));
    opened.on('console', (message) => ['error', 'warning'].includes(message.type()) && problems.push(message.text()));
    await opened.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', (violation) => console.error(`violation: ${violation.violatedDirective} ${violation.blockedURI}`));
    });
    await opened.goto(url);
    return opened;
  };
  const page = await open(first);
  await live(page);
  const card = (name) => page.getByRole('article').filter({ has: page.getByRole('heading', { name, exact: true }) });
  return {
    db, here, running, url, page, open, browser, problems, card,
    /** Restarts the daemon on its port. */
    restart: async function restart() {
      this.running = await daemon(here);
    },
    /** The row of a key of a watch. */
    row: (name, key) => card(name).getByRole('row').filter({ has: page.getByRole('rowheader', { name: key }) }),
    /** So many open orders of a tenant more. */
    insert: (tenant, count) => db.sql(`INSERT INTO orders (tenant) SELECT '${quoted(tenant)}' FROM generate_series(1, ${count})`),
    /** Nothing was asked of anybody else, and nothing went wrong. */
    allIsWell: () => {
      const asked = requests.filter((request) => !request.startsWith('data:')).map((request) => new URL(request).origin);
      assert.deepEqual([...new Set(asked)], [new URL(url).origin]);
      assert.deepEqual(problems, []);
    },
  };
}

/** Waits until a page has its stream. */
export const live = (page) => page.locator('#connection[data-state=live]').waitFor();
