//! Several hosts, addresses and directories in one connection string: each with the name that it is verified by.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn no_host_is_without_its_name() {
    let place = Place::new().await;
    let (port, directory) = (place.server.port, place.server.directory.display().to_string());
    for mode in ["require".to_owned(), format!("verify-full sslrootcert={}", place.root), "disable".to_owned()] {
        for (hosts, says) in [
            // The first refuses; the second would have no name to be verified by.
            ("host=db.example.org hostaddr=127.0.0.9,127.0.0.1".to_owned(), "1 host and 2 hostaddr"),
            ("host=db.example.org,127.0.0.1 hostaddr=127.0.0.1".to_owned(), "2 host and 1 hostaddr"),
            (format!("host={directory} hostaddr=127.0.0.1"), "a directory"),
            (format!("host=127.0.0.1,{directory} hostaddr=127.0.0.1,127.0.0.1"), "a directory"),
            ("hostaddr=127.0.0.1".to_owned(), "hostaddr without host"),
        ] {
            let url = format!("{hosts} port={port} user=app password={PASSWORD} dbname=postgres sslmode={mode}");
            let Outcome::Unusable(said) = connect(&url).await else { panic!("{hosts} {mode}: connected") };
            assert!(said.contains(says), "{hosts}: {said}");
        }
    }
    // Each with its own: what is a directory has no TLS, and what is not has.
    let mixed = |hosts: &str| {
        format!("host={hosts} port={port},{port} user=postgres dbname=postgres sslmode=verify-full sslrootcert={}", place.root)
    };
    assert_eq!(connect(&mixed("/no/such/directory,127.0.0.1")).await, Encrypted);
    assert_eq!(connect(&mixed(&format!("127.0.0.9,{directory}"))).await, Plain);
}
