// A badge and a list that follow the rows. What arrives is shown; the back end is asked once at the beginning, and again
// whenever the connection is back, since events are not repeated for those who were away.

import LaravelEcho from './vendor/echo.js';

const LONGEST = 50;

const element = (id) => document.getElementById(id);
const [badge, badgeText, connection, list, read] = ['badge', 'badge-text', 'connection', 'list', 'read'].map(element);

// As in Laravel's resources/js/echo.js.
const settings = await fetch('settings.json').then((answer) => answer.json());
window.Echo = new LaravelEcho({
  broadcaster: 'reverb',
  key: settings.key,
  wsHost: settings.host,
  wsPort: settings.port,
  forceTLS: false,
  enabledTransports: ['ws'],
});

// The line of the README.
Echo.channel('notifications').listen('.NotificationCreated', (event) => showNotification(event));

// What has arrived since the back end was last asked, the latest first.
let arrived = [];

function showNotification(event) {
  arrived.unshift(event);
  showUnread(event.unread_count);
  if (element(event.notification.id)) return;
  const entry = entryOf(event.notification);
  entry.classList.add('new');
  list.prepend(entry);
  while (list.children.length > LONGEST) list.lastElementChild.remove();
}

function showUnread(count) {
  badge.hidden = count === 0;
  badge.textContent = count > 99 ? '99+' : String(count);
  badgeText.textContent = count === 0 ? 'no unread notifications' : `${count} unread`;
  document.title = count === 0 ? 'Stock' : `(${count}) Stock`;
  read.disabled = count === 0;
}

// Whatever an item is called, it is text: nothing here is read as HTML.
function entryOf({ id, message, item, created_at, read_at }) {
  const part = (tag, name, text) => {
    const node = document.createElement(tag);
    node.className = name;
    node.textContent = text;
    return node;
  };
  const entry = document.createElement('li');
  entry.id = id;
  entry.className = read_at === null ? 'unread' : '';
  const time = part('time', '', new Date(created_at).toLocaleTimeString());
  time.dateTime = created_at;
  const text = part('p', 'message', message);
  if (read_at === null) text.prepend(part('span', 'spoken', 'unread: '));
  entry.append(text, time, part('p', 'item', `SKU ${item.sku}`));
  return entry;
}

async function fetchNotifications() {
  arrived = [];
  const { notifications, unread_count } = await fetch('notifications').then((answer) => answer.json());
  const known = new Set(notifications.map(({ id }) => id));
  const later = arrived.map(({ notification }) => notification).filter(({ id }) => !known.has(id));
  list.replaceChildren(...[...later, ...notifications].slice(0, LONGEST).map(entryOf));
  showUnread(arrived[0]?.unread_count ?? unread_count);
}

read.addEventListener('click', async () => {
  await fetch('notifications/read', { method: 'POST' });
  await fetchNotifications();
});

const { connection: socket } = Echo.connector.pusher;
socket.bind('state_change', ({ current }) => {
  connection.dataset.state = current;
  connection.textContent = current === 'connected' ? 'connected' : 'connecting …';
});
Echo.connector.channels.notifications.subscribed(() => fetchNotifications());
