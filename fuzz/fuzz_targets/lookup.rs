//! Named parameters of a lookup: what is quoted or commented out is left as it is, whatever the text.
#![no_main]

use items_listen::lookup::Lookup;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(lookup) = Lookup::parse(text) else { return };
    assert!(lookup.parameters.iter().all(|name| !name.is_empty()));
    if lookup.parameters.is_empty() {
        assert_eq!(lookup.sql, text, "nothing was to be replaced");
    }
    // Each name is there once, and what was made has none left.
    let mut names = lookup.parameters.clone();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), lookup.parameters.len());
    if let Ok(again) = Lookup::parse(&lookup.sql) {
        assert_eq!(again.parameters, Vec::<String>::new(), "{}", lookup.sql);
    }
});
