// The status page. Every text comes in through textContent, every picture through createElementNS: whatever a key, an error or
// an event is called, it stays text. Ages are told by the daemon's clock, which each document carries.

const SEVERITIES = ['info', 'warning', 'high', 'critical'];
const SILENCE_SAID_AFTER_MS = 8_000;
const ASK_AGAIN_AFTER_MS = 3_000;
/** The oldest delivery is looked for among so many. */
const OLDEST_OF = 1000;
const SVG = 'http://www.w3.org/2000/svg';

// --- Making nodes, and changing what is there as little as possible: focus, selection and scrolling stay. ---

/** What is not itself shown, or turns or hides what stands beside it (as src/plain.rs has it), is spelt out. */
const STEERS = /[\p{Cc}\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
const visible = (text) => text.replace(STEERS, (c) => ({ '\n': '\\n', '\r': '\\r', '\t': '\\t' })[c] ?? `\\u{${c.codePointAt(0).toString(16)}}`);

/** An element with attributes and children; what is null or false is left out. */
function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}
function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, visible(String(value)));
  }
  const wanted = children.flat(3).filter((child) => child !== null && child !== undefined && child !== false);
  node.append(...wanted.map((child) => (child instanceof Node ? child : visible(String(child)))));
  return node;
}

/** Makes the children of a node those that are given. */
function put(parent, children) {
  const wanted = children.flat(3).filter(Boolean).map((child) => (typeof child === 'string' ? document.createTextNode(visible(child)) : child));
  wanted.forEach((child, index) => {
    const there = parent.childNodes[index];
    if (!there) parent.append(child);
    else if (isAlike(there, child)) adopt(there, child);
    else there.replaceWith(child);
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}
function isAlike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.id === b.dataset?.id;
}
function adopt(there, wanted) {
  if (there.nodeType === Node.TEXT_NODE) {
    if (there.data !== wanted.data) there.data = wanted.data;
    return;
  }
  for (const { name } of [...there.attributes]) if (!wanted.hasAttribute(name)) there.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
  put(there, [...wanted.childNodes]);
}
const section = (id) => document.getElementById(id);

// --- Numbers and times ---

const whole = new Intl.NumberFormat('en-GB', { maximumFractionDigits: 0 });
const number = (value) => whole.format(value);
/** A number that was counted up to a limit only. */
const upTo = (value, limit) => (value > limit ? `more than ${number(limit)}` : number(value));
const few = (value) => (value >= 100 ? number(value) : String(Number(value.toPrecision(2))));
const plural = (value, one, many = `${one}s`) => (value === 1 ? one : many);

/** What the daemon's clock said, and what ours said at that moment. */
let clock = null;
const nowMs = () => clock.at + (performance.now() - clock.heard);

function span(seconds) {
  if (seconds < 0.001) return 'under 1 ms';
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${number(Math.floor(seconds / 86_400))} d`;
}
function age(at) {
  const seconds = (nowMs() - Date.parse(at)) / 1000;
  if (seconds < -0.5) return `in ${span(Math.ceil(-seconds))}`;
  return seconds < 1 ? 'just now' : `${span(Math.floor(seconds))} ago`;
}
function sinceText(at) {
  const seconds = Math.floor((nowMs() - Date.parse(at)) / 1000);
  return seconds < 1 ? 'a moment' : span(seconds);
}
const exact = (at) => `${at.replace('T', ' ').replace(/(\.\d{1,3})\d*/, '$1').replace(/(\+00:00|Z)$/, '')} UTC`;
/** A time, told as its distance from now; `kind` is `age` (12 s ago, in 5 s) or `since` (12 s). */
function time(at, kind = 'age') {
  return h('time', { datetime: at, title: exact(at), 'data-kind': kind }, kind === 'since' ? sinceText(at) : age(at));
}
setInterval(() => {
  if (!clock) return;
  for (const node of document.querySelectorAll('main time, footer time, header time')) {
    const at = node.getAttribute('datetime');
    const text = node.dataset.kind === 'since' ? sinceText(at) : age(at);
    if (node.textContent !== text) node.textContent = text;
  }
}, 1000);

// --- Words ---

const badge = (severity) => h('span', { class: `badge ${severity}` }, severity);
const state = (kind, text) => h('span', { class: `state ${kind}` }, text);
const valueText = (value) => (value === null ? 'NULL' : typeof value === 'string' ? value || '""' : JSON.stringify(value));
const clip = (text, length = 120) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const keyText = (key) => Object.entries(key).map(([name, value]) => `${name} ${valueText(value)}`).join(', ');
const REASONS = {
  network: 'no connection', timeout: 'no answer in time', rate_limited: 'rate limited (429)', server: 'server error (5xx)',
  rejected: 'the event was rejected', auth: 'key or secret refused', unknown_app: 'no such application (404)',
  protocol: 'not a Pusher-compatible answer', clock_skew: 'the clocks differ too much', in_progress: 'still busy with the same request',
  expired: 'gave up: too old', unsendable: 'the name of the channel or event cannot be sent',
  superseded: 'a later one took its place', discarded: 'discarded by hand',
};
const reasonText = (reason) => (reason ? (REASONS[reason] ?? reason) : null);
const RECOUNTS = {
  install: 'it is counted for the first time', truncate: 'its table was truncated', broken: 'a statement could not be counted',
  coverage: 'a partition came or went', recount: 'somebody asked for it',
};

// --- Pictures ---

/** Where a severity begins, as a reading. */
function edge(scale, threshold, index) {
  const product = (scale.edges[index] * threshold) / 100;
  if (scale.compare === '>=' || scale.compare === '<') return Math.ceil(product);
  return Math.floor(product);
}
const signOf = (scale) => ({ '>=': '≥', '<=': '≤' })[scale.compare] ?? scale.compare;
const edgeText = (scale, threshold) => [0, 1, 2].map((index) => `${SEVERITIES[index + 1]} ${signOf(scale)} ${number(edge(scale, threshold, index))}`).join(' · ');

/** A reading on the four bands: left is nothing, the tick is the threshold's first edge. */
function bar(key, scale) {
  const [warning, high, critical] = scale.edges;
  const end = Math.max(1, scale.is_low ? warning * 1.6 : critical * 1.25);
  const x = (percent) => Math.max(0, Math.min(100, (percent / end) * 100));
  const ends = scale.is_low
    ? [['critical', 0, critical], ['high', critical, high], ['warning', high, warning], ['info', warning, end]]
    : [['info', 0, warning], ['warning', warning, high], ['high', high, critical], ['critical', critical, end]];
  const exactly = key.threshold ? (key.reading / key.threshold) * 100 : key.percent;
  const severity = SEVERITIES[key.severity];
  const label = `${number(key.reading)} of ${number(key.threshold)}, ${number(key.percent)} %, ${severity}; ${edgeText(scale, key.threshold)}`;
  return svg('svg', { class: 'bar', viewBox: '0 0 100 12', preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    svg('title', {}, label),
    ends.map(([band, from, to]) => svg('rect', { class: `band ${band}`, x: x(from), y: 0, width: Math.max(0, x(to) - x(from)), height: 12 })),
    svg('rect', { class: `reading ${severity}`, x: 0, y: 3.5, width: exactly > 0 ? Math.max(0.8, x(exactly)) : 0, height: 5 }),
    svg('line', { class: 'edge', x1: x(warning), x2: x(warning), y1: 0, y2: 12 }),
    exactly > end && svg('path', { class: 'beyond', d: 'M96.5 1 L99 6 L96.5 11' }));
}

const WINDOWS = [[300, '5 min'], [900, '15 min'], [3600, 'hour'], [21_600, '6 h'], [86_400, '24 h'], [604_800, '7 d'], [2_592_000, '30 d']];
/** The shortest window that holds most of what happened to these keys. */
function windowOf(keys) {
  const ages = keys.flatMap((key) => key.past.map(([at]) => (clock.at - Date.parse(at)) / 1000)).sort((a, b) => a - b);
  if (ages.length === 0) return null;
  const most = ages[Math.min(ages.length - 1, Math.floor(ages.length * 0.8))];
  return WINDOWS.find(([seconds]) => most <= seconds) ?? WINDOWS.at(-1);
}

/** The readings of a key's last events as steps, coloured by severity; the dashed line is the threshold's first edge. */
function steps(key, scale, [seconds, name]) {
  const [width, height, pad] = [120, 26, 3];
  const from = clock.at - seconds * 1000;
  const past = key.past.map(([at, count, severity]) => ({ at: Date.parse(at), count, severity }));
  if (past.length === 0) return h('span', { class: 'quiet' }, 'no event');
  const line = scale && key.threshold ? edge(scale, key.threshold, 0) : null;
  const counts = [key.reading, ...past.map((event) => event.count)];
  const levels = line === null ? counts : [...counts, line];
  const [bottom, top] = [Math.min(...levels), Math.max(...levels, Math.min(...levels) + 1)];
  const x = (at) => Math.max(0, Math.min(width - pad, ((at - from) / (seconds * 1000)) * (width - pad)));
  const y = (count) => height - pad - ((count - bottom) / (top - bottom)) * (height - 2 * pad);
  // What happened before the window is where its line begins.
  const before = past.filter((event) => event.at < from).at(-1);
  const inside = past.filter((event) => event.at >= from);
  const events = before ? [{ ...before, at: from }, ...inside] : inside;
  const d = (n) => n.toFixed(1);
  const parts = events.map((event, index) => {
    const next = events[index + 1];
    const [end, then] = next ? [x(next.at), next.count] : [width - pad, key.reading];
    return svg('path', { class: `step ${event.severity}`, d: `M${d(x(event.at))} ${d(y(event.count))} H${d(end)} V${d(y(then))}` });
  });
  const said = `${past.length} ${plural(past.length, 'event')} kept, ${inside.length} in the last ${name}: ` +
    past.slice(-5).map((event) => `${number(event.count)} ${event.severity}`).join(', ') + `; now ${number(key.reading)}`;
  return svg('svg', { class: 'steps', width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': said },
    svg('title', {}, said),
    line !== null && svg('line', { class: 'limit', x1: 0, x2: width, y1: d(y(line)), y2: d(y(line)) }),
    parts,
    svg('circle', { class: `now ${SEVERITIES[key.severity]}`, cx: width - pad, cy: d(y(key.reading)), r: 2.5 }));
}

// --- What is in the way of an alert, the worst first ---

function findings({ process, error, state: known }) {
  const found = [];
  const say = (weight, where, ...text) => found.push({ weight, ...(typeof where === 'string' ? { where } : where), text });
  if (error || !process.ready) {
    // “starting” and “reloading the configuration” pass by themselves.
    const database = process.ready ? error : /^database: (.*)/s.exec(process.reason)?.[1];
    say(database ? 3 : 2, database ? 'Database' : 'Daemon', process.unready_since ? ['Not ready for ', time(process.unready_since, 'since'), ': '] : '',
      database ?? process.reason, '. Nothing is lost: what is committed is told once it is ready.');
  }
  if (!known) return found;
  if (process.reload && !process.reload[1]) {
    say(2, 'Configuration', 'A reload was refused ', time(process.reload[0]), '; the configuration before it is still in force. The log says what is wrong.');
  }
  if (process.held) say(3, 'Outbox', 'This database is a copy made elsewhere, so nothing is sent. “items-listen deliveries retry” sends it all the same.');
  const { database, watches, endpoints } = known;
  if (process.ready && database.heartbeat_at && nowMs() - Date.parse(database.heartbeat_at) > Math.max(5000, 5 * process.poll_ms)) {
    say(3, 'Database', 'The listening session has not beaten since ', time(database.heartbeat_at), '.');
  }
  if (database.queue_usage > 0.1) {
    say(2, 'Database', `The server’s notification queue is ${number(database.queue_usage * 100)} % full, so writers do not ring: some session listens in a transaction that does not end.`);
  }
  for (const other of database.others) {
    if (other.config_hash !== process.config_hash) {
      say(2, 'Replicas', `The daemon on ${other.host} (pid ${other.pid}) runs another configuration, ${other.config_hash}; this one runs ${process.config_hash}.`);
    }
  }
  if (database.journal_rows > 10_000 && process.rows_per_second > 0) {
    say(2, 'Journal', `${upTo(database.journal_rows, 100_000)} rows wait to be folded; at ${few(process.rows_per_second)} rows/s that takes about ${span(database.journal_rows / process.rows_per_second)}.`);
  } else if (database.journal_rows > 10_000) {
    say(3, 'Journal', `${upTo(database.journal_rows, 100_000)} rows wait to be folded, and nothing was folded for ten seconds.`);
  }
  for (const watch of watches) {
    const where = { where: `Watch ${watch.name}`, watch: watch.name };
    if (watch.error) say(3, where, 'Degraded', watch.error_at ? [' ', time(watch.error_at)] : '', `: ${watch.error}. The others go on, and it heals by itself once this is mended.`);
    else if (!watch.is_installed) say(2, where, process.installs ? 'Not installed yet.' : 'Not installed: run “items-listen install”.');
    else if (watch.recount) say(2, where, `Being counted anew, since ${RECOUNTS[watch.recount] ?? watch.recount}; until then its counts may be behind.`);
    if (watch.is_installed && !watch.is_ours && database.others.length === 0) say(1, where, 'Installed, but not in this daemon’s configuration: nobody folds it.');
    if (watch.dirty > 1000) say(1, where, `${upTo(watch.dirty, 10_000)} keys wait to be judged.`);
    if (watch.digest_due_at) say(1, where, 'In a storm: what is beyond its limit is told in a digest ', time(watch.digest_due_at), '.');
    const held = watch.shown.filter((key) => key.breach_since && key.severity === 0);
    if (held.length > 0) say(1, where, `${held.length === 1 ? 'A key is' : `${held.length} keys are`} beyond the threshold, but not for as long as hold asks yet.`);
  }
  for (const endpoint of endpoints) {
    const where = { where: `Endpoint ${endpoint.name}`, endpoint: endpoint.name };
    const waits = endpoint.pending > 0 ? ` ${upTo(endpoint.pending, 10_000)} ${plural(endpoint.pending, 'delivery waits', 'deliveries wait')}; none is lost.` : ' Nothing waits for it.';
    const probe = endpoint.until ? [', next probe ', time(endpoint.until)] : [];
    if (endpoint.state === 'paused') say(3, where, 'Paused, since it refuses everything: ', reasonText(endpoint.reason) ?? 'no reason kept', probe, '.', waits);
    else if (endpoint.state === 'backing_off') say(2, where, 'Backing off: ', reasonText(endpoint.reason) ?? 'no reason kept', probe, '.', waits);
    else if (endpoint.oldest_pending_at && nowMs() - Date.parse(endpoint.oldest_pending_at) > 30_000) {
      const next = endpoint.next;
      say(2, where, 'Its oldest delivery is from ', time(endpoint.oldest_pending_at), next?.reason ? [`; the next was tried ${number(next.attempts)} × (${reasonText(next.reason)})`] : '', '.', waits);
    }
    if (!endpoint.served) say(endpoint.pending > 0 ? 3 : 1, where, 'No running daemon has it in its configuration.', waits);
    if (endpoint.dead > 0) {
      const last = endpoint.last_dead;
      say(2, where, `${upTo(endpoint.dead, 10_000)} dead ${plural(endpoint.dead, 'delivery', 'deliveries')}`,
        last ? [`, the last of ${last.watch} `, time(last.at), `: ${reasonText(last.reason) ?? 'no reason kept'}${last.status ? ` (${last.status})` : ''}`] : '',
        '. “items-listen deliveries list --state dead” shows them, “… retry” sends them again.');
    }
  }
  return found.sort((a, b) => b.weight - a.weight);
}

const isHidden = (process, what) => process.hidden.includes(what);
const openOf = (watches) => [0, 1, 2].map((index) => watches.reduce((sum, watch) => sum + watch.open[index], 0));
function openText(open) {
  const parts = [2, 1, 0].filter((index) => open[index] > 0).map((index) => `${number(open[index])} ${SEVERITIES[index + 1]}`);
  return parts.length > 0 ? `${parts.join(', ')} open` : 'no alert open';
}

function drawVerdict(doc) {
  const found = findings(doc);
  const open = doc.state && !isHidden(doc.process, 'counts') ? openOf(doc.state.watches) : null;
  const worst = Math.max(0, ...found.map((finding) => finding.weight));
  const troubles = found.filter((finding) => finding.weight === 3);
  const named = (what, preposition) => {
    const names = [...new Set(troubles.map((finding) => finding[what]).filter(Boolean))];
    return names.length > 0 ? `${preposition} ${names.join(', ')}` : null;
  };
  const which = troubles.every((finding) => finding.watch || finding.endpoint) ? [named('watch', 'of'), named('endpoint', 'to')].filter(Boolean) : [];
  const title = worst === 3 ? `${['Alerts', which.join(' and ')].filter(Boolean).join(' ')} are held up`
    : worst === 2 ? 'Some alerts may be late' : 'Nothing holds alerts up';
  const rank = ['', 'note', 'attention', 'trouble'];
  put(section('verdict'), [
    h('div', { class: `verdict ${rank[worst] || 'fine'}` }, h('div', { class: 'title' },
      h('h2', {}, title),
      open && h('p', { class: 'open' }, open.every((count) => count === 0) ? 'No alert is open.' : [
        'Open: ', [2, 1, 0].filter((index) => open[index] > 0).map((index) => h('span', { class: `count ${SEVERITIES[index + 1]}` }, `${number(open[index])} ${SEVERITIES[index + 1]}`))]),
      doc.process.hidden.length > 0 && h('p', { class: 'open hidden' }, `Not told here: ${doc.process.hidden.join(' and ')}.`)),
    found.length > 0 && h('ul', { class: 'findings' }, found.map(({ weight, where, text }) =>
      h('li', { class: rank[weight] }, h('strong', {}, where), ' ', h('span', {}, text))))),
  ]);
  document.title = `${open ? openText(open) : title} · items-listen`;
  const spoken = `${title}. ${open ? openText(open) : ''}`;
  if (section('spoken').textContent !== spoken) section('spoken').textContent = spoken;
}

// --- The way of an alert ---

const BELLS = {
  armed: ['listening', 'asleep until a commit rings'], awake: ['at work', 'folds as commits come'],
  unarmed: ['listening', 'asleep until the next poll'], off: ['polling', 'the doorbell is off'],
};

function drawPath({ process, error, state: known }) {
  const stage = (name, kind, value, ...lines) => h('li', { class: kind }, h('h3', {}, name), h('p', { class: 'value' }, value), lines.map((line) => line && h('p', {}, line)));
  if (!known) {
    const old = shown?.state && stage('Everything below', 'attention', ['as of ', wallClock(knownAt)], 'what the database said last');
    put(section('path'), [h('ol', {}, stage('Database', 'trouble', 'no answer', error), old)]);
    return;
  }
  const { database, endpoints, delay } = known;
  const [bell, meaning] = BELLS[database.doorbell] ?? ['not entered', 'this daemon is not in the database yet'];
  const pending = endpoints.reduce((sum, endpoint) => sum + endpoint.pending, 0);
  const oldest = endpoints.map((endpoint) => endpoint.oldest_pending_at).filter(Boolean).sort((a, b) => Date.parse(a) - Date.parse(b))[0];
  const dead = endpoints.reduce((sum, endpoint) => sum + endpoint.dead, 0);
  const bad = endpoints.filter((endpoint) => endpoint.state !== 'ok');
  put(section('path'), [h('h2', { class: 'spoken' }, 'The way of an alert'), h('ol', {},
    stage('Database', process.ready ? 'fine' : 'trouble', process.ready ? bell : 'not ready',
      process.ready ? meaning : process.reason,
      database.heartbeat_at && ['heartbeat ', time(database.heartbeat_at), `, poll every ${span(process.poll_ms / 1000)}`]),
    stage('Journal', database.journal_rows > 10_000 ? 'attention' : 'fine', `${upTo(database.journal_rows, 100_000)} ${plural(database.journal_rows, 'row')}`,
      !isHidden(process, 'counts') && `folding ${few(process.rows_per_second)} rows/s`,
      process.last_fold ? ['last fold ', time(process.last_fold.at), isHidden(process, 'counts') ? '' : `, ${number(process.last_fold.rows)} ${plural(process.last_fold.rows, 'row')}`] : 'nothing folded since the start'),
    stage('Outbox', process.held || dead > 0 || (oldest && nowMs() - Date.parse(oldest) > 30_000) ? 'attention' : 'fine', process.held ? 'held' : `${number(pending)} pending`,
      oldest ? ['oldest ', time(oldest), endpoints.some((endpoint) => endpoint.pending > OLDEST_OF) ? ' or earlier' : ''] : 'nothing waits', `${number(dead)} dead`),
    stage('Sending', bad.some((endpoint) => endpoint.state === 'paused') ? 'trouble' : bad.length > 0 ? 'attention' : 'fine',
      delay.deliveries > 0 ? span(delay.median) : 'idle',
      delay.deliveries > 0 ? 'median from fold to answer' : 'nothing was delivered yet',
      bad.length > 0 ? bad.map((endpoint) => `${endpoint.name} ${endpoint.state === 'paused' ? 'is paused' : 'backs off'}`).join(', ')
        : delay.deliveries > 0 && `slowest ${span(delay.slowest)} of the last ${number(delay.deliveries)}`))]);
}

// --- Watches ---

function keyRow(key, watch, window) {
  const severity = SEVERITIES[key.severity];
  const unkeyed = Object.keys(key.key).length === 0;
  const name = unkeyed ? (watch.source === 'notify' ? 'last reading' : 'all rows') : Object.values(key.key).map(valueText).join(' · ');
  const judged = key.threshold !== null && watch.scale && key.percent !== null;
  const note = key.severity === 0 && key.breach_since ? ['beyond the threshold for ', time(key.breach_since, 'since'), key.deadline ? [', raised ', time(key.deadline)] : '']
    : key.severity > 0 && key.clear_since ? ['milder for ', time(key.clear_since, 'since'), key.deadline ? [', told ', time(key.deadline)] : '']
    : key.severity > 0 && key.raised_at ? ['since ', time(key.raised_at, 'since')] : null;
  return h('tr', { 'data-id': JSON.stringify(key.key) },
    h('th', { scope: 'row', title: keyText(key.key) || name }, h('span', { class: 'name' }, name), note && h('span', { class: 'note' }, note)),
    h('td', { class: 'reading' }, h('span', { class: 'figure' }, number(key.reading)), h('span', { class: 'of' }, judged ? `of ${number(key.threshold)}` : 'no threshold known')),
    h('td', { class: 'picture' }, judged ? bar(key, watch.scale) : null),
    h('td', { class: 'severity' }, badge(severity), judged && h('span', { class: 'percent' }, `${number(key.percent)} %`)),
    h('td', { class: 'past' }, window ? steps(key, watch.scale, window) : h('span', { class: 'quiet' }, 'no event')));
}

function watchCard(watch) {
  // What is hidden is null.
  const isCounted = watch.counts && watch.open !== null;
  const opens = watch.open ?? [0, 0, 0];
  const open = opens.reduce((sum, count) => sum + count, 0);
  const worst = watch.error ? 'trouble' : [2, 1, 0].filter((index) => opens[index] > 0).map((index) => SEVERITIES[index + 1])[0] ?? 'info';
  const window = windowOf(watch.shown);
  const thresholds = new Set(watch.shown.map((key) => key.threshold).filter((threshold) => threshold !== null));
  const bands = !watch.scale || !watch.counts ? null
    : thresholds.size === 1 ? edgeText(watch.scale, [...thresholds][0])
    : thresholds.size > 1 ? `${[0, 1, 2].map((index) => `${SEVERITIES[index + 1]} ${signOf(watch.scale)} ${number(watch.scale.edges[index])} %`).join(' · ')} of each key’s threshold`
    : 'no threshold known';
  const columns = Object.keys(watch.shown[0]?.key ?? {});
  const lacks = watch.error && watch.keys === 0;
  const more = watch.keys - watch.shown.length;
  const held = watch.scale && watch.scale.hold_seconds > 0 ? ` · held for ${span(watch.scale.hold_seconds)}` : '';
  return h('article', { class: `watch ${worst}`, 'data-id': watch.name },
    h('header', {},
      h('h3', {}, watch.name),
      h('p', { class: 'counts' }, watch.error && state('trouble', 'degraded'), !watch.counts ? 'changes of rows' : !isCounted ? 'counts are hidden' : open === 0 ? (watch.error ? null : 'none open') :
        [2, 1, 0].filter((index) => opens[index] > 0).map((index) => h('span', { class: `count ${SEVERITIES[index + 1]}` }, `${upTo(opens[index], 10_000)} ${SEVERITIES[index + 1]}`)))),
    h('div', { class: 'about' },
      h('p', { class: 'what' }, watch.what || `a ${watch.source} of another daemon’s configuration`, columns.length > 0 && watch.counts ? `, by ${columns.join(', ')}` : ''),
      isCounted && bands && !lacks && h('p', { class: 'bands' }, bands, held)),
    watch.error && h('p', { class: 'error' }, h('strong', {}, 'Degraded. '), watch.error),
    !watch.is_installed && h('p', { class: 'quiet' }, 'Not installed yet.'),
    watch.shown.length > 0 && h('table', {},
      h('caption', { class: 'spoken' }, `Keys of ${watch.name}, the worst first`),
      h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, columns.join(' · ') || 'Count'), h('th', { scope: 'col' }, 'Reading'), h('th', { scope: 'col' }, 'Against the bands'),
        h('th', { scope: 'col' }, 'Severity'), h('th', { scope: 'col' }, window ? `Last ${window[1]}` : 'Past'))),
      h('tbody', {}, watch.shown.map((key) => keyRow(key, watch, window)))),
    h('p', { class: 'foot' },
      lacks || (watch.counts && !isCounted) ? null : !watch.counts ? 'Told as they are committed; nothing is counted.' : watch.is_installed && watch.keys === 0 ? 'No key yet: no row is counted.'
        : more > 0 && watch.keys > 10_000 ? `and more than ${number(10_000 - watch.shown.length)} other keys` : more > 0 ? `and ${number(more)} more ${plural(more, 'key')}` : null,
      watch.counts && h('span', {}, watch.last_transition_at ? ['last transition ', time(watch.last_transition_at)] : 'no transition yet')));
}

function drawWatches({ watches, watches_left_out: leftOut }) {
  put(section('watches'), [
    h('h2', { id: 'watches-heading' }, 'Watches'),
    watches.length === 0 ? h('p', { class: 'quiet' }, 'No watch is configured.') : h('div', { class: 'cards' }, watches.map(watchCard)),
    leftOut > 0 && h('p', { class: 'quiet' }, `and ${number(leftOut)} more`),
  ]);
}

// --- Endpoints ---

function endpointState(endpoint) {
  if (endpoint.state === 'ok') return [state('fine', 'ok')];
  const [kind, word] = endpoint.state === 'paused' ? ['trouble', 'paused'] : ['attention', 'backing off'];
  return [state(kind, word), h('span', { class: 'note' }, reasonText(endpoint.reason) ?? '', endpoint.until ? [', probe ', time(endpoint.until)] : '')];
}

function drawEndpoints({ endpoints }) {
  const cell = (label, ...children) => h('td', { 'data-label': label }, h('div', {}, children));
  put(section('endpoints'), [
    h('h2', { id: 'endpoints-heading' }, 'Endpoints'),
    endpoints.length === 0 ? h('p', { class: 'quiet' }, 'No endpoint is configured.') : h('table', { class: 'list' },
      h('thead', {}, h('tr', {}, ['Endpoint', 'State', 'Pending', 'Oldest', 'Dead', 'Last success', 'Last error'].map((name) => h('th', { scope: 'col' }, name)))),
      h('tbody', {}, endpoints.map((endpoint) => h('tr', { 'data-id': endpoint.name },
        h('th', { scope: 'row' }, endpoint.name),
        cell('State', endpointState(endpoint)),
        cell('Pending', upTo(endpoint.pending, 10_000), endpoint.state === 'ok' && endpoint.next && endpoint.next.attempts > 0 && h('span', { class: 'note' }, `next tried ${number(endpoint.next.attempts)} ×, again `, time(endpoint.next.due_at))),
        cell('Oldest', endpoint.oldest_pending_at ? [time(endpoint.oldest_pending_at), endpoint.pending > OLDEST_OF ? ' or earlier' : ''] : '–'),
        cell('Dead', upTo(endpoint.dead, 10_000)),
        cell('Last success', endpoint.last_success_at ? time(endpoint.last_success_at) : 'never'),
        cell('Last error', endpoint.last_error ? h('span', { class: 'said' }, endpoint.last_error) : 'none'))))),
  ]);
}

// --- Recent alerts ---

function deliveryText(delivery, endpoint) {
  const tries = `${number(delivery.attempts)} ${plural(delivery.attempts, 'attempt')}`;
  const why = [reasonText(delivery.reason), delivery.status].filter(Boolean).join(', ');
  if (delivery.state === 'delivered') return ['fine', 'delivered', [delivery.seconds === null ? '' : `in ${span(delivery.seconds)}, `, tries]];
  if (delivery.state === 'dead') return ['trouble', 'dead', [tries, why && `: ${why}`]];
  if (delivery.state === 'superseded') return ['note', 'superseded', [why]];
  if (delivery.under_way) return ['note', 'being sent', [delivery.attempts > 0 ? tries : '']];
  const tried = delivery.attempts > 0 ? `${tries}${why && `: ${why}`}, ` : '';
  if (endpoint && endpoint.state !== 'ok') return ['attention', 'waits', [tried, endpoint.state === 'paused' ? 'the endpoint is paused' : 'the endpoint fails']];
  return ['attention', 'waits', [tried, 'due ', time(delivery.due_at)]];
}

/** Deliveries of one event name on the same channels, side by side. */
function deliveryGroups(deliveries, endpoints) {
  const groups = new Map();
  for (const delivery of deliveries) {
    const channels = delivery.channels.join(', ') + (delivery.more_channels > 0 ? ` and ${number(delivery.more_channels)} more` : '');
    const what = `${delivery.event} on ${channels}`;
    groups.set(what, [...(groups.get(what) ?? []), delivery]);
  }
  return [...groups].map(([what, group]) => h('li', { 'data-id': what },
    h('ul', {}, group.map((delivery) => {
      const [kind, word, rest] = deliveryText(delivery, endpoints.find((endpoint) => endpoint.name === delivery.endpoint));
      return h('li', { 'data-id': String(delivery.id) }, h('span', { class: 'to' }, delivery.endpoint), ' ', state(kind, word), ' ', h('span', { class: 'note' }, rest));
    })),
    h('p', { class: 'channel', title: what }, what)));
}

function alertItem(alert, endpoints) {
  const to = alert.previous && alert.previous !== alert.severity ? [badge(alert.previous), h('span', { class: 'arrow' }, '→'), badge(alert.severity)] : [badge(alert.severity)];
  const key = keyText(alert.key);
  return h('li', { 'data-id': alert.id, class: alert.severity },
    h('div', { class: 'said' },
      h('p', { class: 'message' }, alert.message ?? `${alert.watch} ${key}${alert.count === null ? '' : ` at ${number(alert.count)}`}`),
      h('p', { class: 'facts' }, to, ' ', h('span', {}, alert.transition), ' ', time(alert.at), ' ',
        h('span', { class: 'about' }, [alert.watch, clip(key), alert.count === null ? '' : `${number(alert.count)}${alert.threshold === null ? '' : ` of ${number(alert.threshold)}`}`,
          alert.reason && alert.reason !== 'reading' ? `because: ${alert.reason}` : ''].filter(Boolean).join(' · ')))),
    alert.deliveries.length > 0 ? h('ul', { class: 'deliveries' }, deliveryGroups(alert.deliveries, endpoints))
      : h('p', { class: 'quiet' }, alert.digest ? 'told in a digest' : alert.known ? 'no rule sends it' : 'its deliveries are further back than the last 500'));
}

function drawAlerts({ alerts, endpoints }, process) {
  put(section('alerts'), [
    h('h2', { id: 'alerts-heading' }, isHidden(process, 'counts') ? 'Recent alerts, one per watch' : 'Recent alerts'),
    alerts.length === 0 ? h('p', { class: 'quiet' }, 'None yet.') : h('ol', { class: 'alerts' }, alerts.map((alert) => alertItem(alert, endpoints))),
  ]);
}

// --- The process, and the whole ---

function drawProcess({ process, state: known }) {
  put(section('where'), [process.database, process.schema === 'items_listen' ? '' : ` · schema ${process.schema}`]);
  const others = known?.database.others ?? [];
  const fact = (name, ...value) => h('div', {}, h('dt', {}, name), h('dd', {}, value));
  put(section('process'), [h('dl', {},
    fact('Version', process.version), fact('Up for', time(process.started_at, 'since')), fact('Configuration', process.config_file, ' ', h('code', {}, process.config_hash), process.reload?.[1] ? [', reloaded ', time(process.reload[0])] : ''),
    known && fact('PostgreSQL', known.database.version), !isHidden(process, 'counts') && fact('Folded since the start', `${number(process.rows_folded)} ${plural(process.rows_folded, 'row')}`),
    fact('Other daemons', others.length === 0 ? 'none' : others.map((other) => `${other.host} (pid ${other.pid}, ${other.version}, ${other.ready ? 'ready' : 'not ready'})`).join(', '))),
  h('p', {}, 'The same in a terminal: ', h('code', {}, 'items-listen status'), ' · as JSON: ', h('a', { href: '/api/status' }, '/api/status'), ' · for Prometheus: ', h('a', { href: '/metrics' }, '/metrics'))]);
}

let shown = null;
let knownAt = null;
function draw(doc) {
  if (!doc.process) return;
  if (shown && shown.process.version !== doc.process.version) {
    // Another program answers now: its own page knows its documents.
    location.reload();
    return;
  }
  clock = { at: Date.parse(doc.now), heard: performance.now() };
  if (doc.state) knownAt = new Date();
  // While the database is silent, what it said last stays, and is marked as old.
  const known = doc.state ?? null;
  document.body.classList.toggle('old', !known && Boolean(shown?.state));
  drawVerdict(doc);
  drawPath(doc);
  if (known) {
    drawWatches(known);
    drawEndpoints(known);
    drawAlerts(known, doc.process);
  }
  drawProcess(doc);
  shown = known ? doc : { ...doc, state: shown?.state ?? null };
}

// --- The stream ---

let stream = null;
let heardAt = null;
let askedAt = performance.now();
let lostAt = null;
let again = null;

function say(kind, text) {
  const node = section('connection');
  node.dataset.state = kind;
  if (node.textContent !== text) node.textContent = text;
}
const wallClock = (date) => date.toLocaleTimeString('en-GB');
function lost() {
  lostAt ??= new Date();
  document.body.classList.add('lost');
  say('lost', `no connection to the daemon since ${wallClock(lostAt)}`);
}
function listen() {
  clearTimeout(again);
  stream?.close();
  askedAt = performance.now();
  if (heardAt === null) say('waiting', 'connecting');
  stream = new EventSource('/api/live');
  stream.onmessage = (message) => {
    [heardAt, lostAt] = [performance.now(), null];
    document.body.classList.remove('lost');
    say('live', 'live');
    draw(JSON.parse(message.data));
  };
  stream.onerror = () => {
    if (document.hidden) return;
    lost();
    // A refused stream is not asked for again by the browser itself.
    if (stream.readyState === EventSource.CLOSED) {
      again = setTimeout(listen, ASK_AGAIN_AFTER_MS);
      refusal();
    }
  };
}
/** Why the stream was refused, in the daemon's words. */
async function refusal() {
  const asked = new AbortController();
  try {
    const answer = await fetch('/api/live', { signal: asked.signal });
    if (!answer.ok) say('lost', (await answer.text()).trim());
  } catch {
    // Nobody is there: that is said already.
  } finally {
    asked.abort();
  }
}
setInterval(() => {
  if (document.hidden || performance.now() - (heardAt ?? askedAt) <= SILENCE_SAID_AFTER_MS) return;
  lost();
  // A stream that stands and says nothing is asked for anew.
  if (performance.now() - askedAt > 3 * SILENCE_SAID_AFTER_MS) listen();
}, 1000);
// Nobody looks: then nothing is read.
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) {
    listen();
  } else if (stream) {
    stream.close();
    clearTimeout(again);
    say('waiting', 'paused');
  }
});
listen();
