//! The line of Laravel Echo that hears an event.

/// `Echo.private('tenant.7.stock-alerts').listen('.stock.low', e => console.log(e))`
pub(super) fn line(channel: &str, event: &str) -> String {
    let prefixes = [("private-encrypted-", "encryptedPrivate"), ("private-", "private"), ("presence-", "join")];
    let (method, name) = prefixes
        .into_iter()
        .find_map(|(prefix, method)| Some((method, channel.strip_prefix(prefix)?)))
        .unwrap_or(("channel", channel));
    if event == r"Illuminate\Notifications\Events\BroadcastNotificationCreated" {
        return format!("Echo.{method}('{name}').notification(e => console.log(e))");
    }
    let heard = match event.strip_prefix(r"App\Events\") {
        // Echo puts App.Events in front and turns every dot into a backslash.
        Some(class) => class.replace('\\', "."),
        None => format!(".{event}"),
    };
    // Whoever copies the line runs it: no name ends its text.
    let heard = heard.replace('\\', r"\\").replace('\'', r"\'");
    format!("Echo.{method}('{name}').listen('{heard}', e => console.log(e))")
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn it_is_what_echo_wants() {
        assert_eq!(
            line("private-tenant.7.stock-alerts", "stock.low"),
            "Echo.private('tenant.7.stock-alerts').listen('.stock.low', e => console.log(e))"
        );
        assert_eq!(
            line("inventory", r"App\Events\ItemCountExceeded"),
            "Echo.channel('inventory').listen('ItemCountExceeded', e => console.log(e))"
        );
        assert_eq!(
            line("private-App.Models.User.1", r"Illuminate\Notifications\Events\BroadcastNotificationCreated"),
            "Echo.private('App.Models.User.1').notification(e => console.log(e))"
        );
        assert_eq!(line("a", r"x'); \'"), r"Echo.channel('a').listen('.x\'); \\\'', e => console.log(e))");
        assert!(line("presence-room", "x").starts_with("Echo.join('room')"));
    }
}
