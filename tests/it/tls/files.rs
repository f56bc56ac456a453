//! Files of certificates, keys and revocation lists: in which forms they are read, and what is said of those that cannot be.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_named_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new().await;
    let files = &place.files;
    let issued = place.clients.client("certified", Validity::Good);
    let certificate = files.write("c.crt", &issued.certificate);
    let key = files.write("c.key", &issued.key);
    let open = files.write("open.key", &issued.key);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("others may read it");
    let other = files.write("other.key", &place.clients.client("certified", Validity::Good).key);
    let locked = files.write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let damaged = files.write("damaged.key", "-----BEGIN PRIVATE KEY-----\nkept-to-myself\n-----END PRIVATE KEY-----\n");
    let empty = files.write("empty", "");
    for (parameters, names) in [
        ("sslrootcert=/no/such/file".to_owned(), ["sslrootcert", "/no/such/file"]),
        (format!("sslrootcert={empty}"), ["holds no certificate", &empty]),
        (format!("sslcert={certificate} sslkey={open}"), ["chmod 600", &open]),
        (format!("sslcert={certificate} sslkey={other}"), ["do not go together", &other]),
        (format!("sslcert={certificate} sslkey={locked}"), ["passphrase", &locked]),
        (format!("sslcert={certificate} sslkey={damaged}"), ["cannot be read", &damaged]),
        (format!("sslcert={certificate} sslkey={certificate}"), ["holds no key", &certificate]),
        (format!("sslcert={key} sslkey={key}"), ["holds no certificate", &key]),
        (format!("sslrootcert={} sslcrl={}", place.root, place.root), ["revocation list", &place.root]),
    ] {
        let Outcome::Unusable(said) = place.straight(&parameters).await else { panic!("{parameters}") };
        assert!(names.iter().all(|name| said.contains(name)), "{parameters}: {said}");
    }
    assert_eq!(place.straight(&format!("sslrootcert={} sslcert={certificate} sslkey={key}", place.root)).await, Encrypted);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_the_forms_of_openssl_are_read() {
    let place = Place::new().await;
    let issued = place.clients.client("certified", Validity::Good);
    let certificate = place.files.write("c.crt", &issued.certificate);
    let key = place.files.write("c.key", &issued.key);
    let openssl = |arguments: &[&str]| {
        std::process::Command::new("openssl")
            .args(arguments)
            .current_dir(&place.files.0)
            .output()
            .is_ok_and(|done| done.status.success())
    };
    if !openssl(&["version"]) {
        eprintln!("there is no openssl here: not tried");
        return;
    }
    // SEC1, -----BEGIN EC PRIVATE KEY-----
    assert!(openssl(&["pkey", "-in", &key, "-traditional", "-out", "sec1.key"]));
    let sec1 = std::fs::read_to_string(place.files.0.join("sec1.key")).expect("it was made");
    assert!(sec1.contains("BEGIN EC PRIVATE KEY"));
    let sec1 = place.files.write("sec1.key", &sec1);
    let url =
        |key: &str| place.url(place.server.port, "certified", &format!("sslmode=require sslcert={certificate} sslkey={key}"));
    assert_eq!(connect(&url(&sec1)).await, Encrypted);
    assert!(openssl(&["pkey", "-in", &key, "-aes256", "-passout", "pass:x", "-out", "locked.key"]));
    let locked = std::fs::read_to_string(place.files.0.join("locked.key")).expect("it was made");
    let Outcome::Unusable(said) = connect(&url(&place.files.write("locked.key", &locked))).await else { panic!("it is locked") };
    assert!(said.contains("passphrase"), "{said}");

    // PKCS#1, and certificates as PostgreSQL's documentation makes them: version 1 or that of an issuer, its own issuer.
    let make = [
        "req",
        "-new",
        "-x509",
        "-days",
        "30",
        "-nodes",
        "-newkey",
        "rsa:2048",
        "-subj",
        "/CN=127.0.0.1",
        "-keyout",
        "own.key",
        "-out",
        "own.crt",
    ];
    assert!(openssl(&make) && openssl(&["rsa", "-in", "own.key", "-traditional", "-out", "own.key"]));
    let request = ["req", "-new", "-key", "own.key", "-subj", "/CN=127.0.0.1", "-out", "own.csr"];
    assert!(
        openssl(&request) && openssl(&["x509", "-req", "-in", "own.csr", "-signkey", "own.key", "-days", "30", "-out", "v1.crt"])
    );
    for name in ["own.crt", "v1.crt"] {
        let read = |name: &str| std::fs::read_to_string(place.files.0.join(name)).expect("it was made");
        place.server.show(&Issued::of(&read(name), &read("own.key"))).await;
        let root = place.files.0.join(name).display().to_string();
        assert_eq!(place.straight("sslmode=require").await, Encrypted, "{name}");
        assert_eq!(place.straight(&format!("sslmode=verify-ca sslrootcert={root}")).await, Encrypted, "{name}");
        // A common name alone is no name.
        assert_eq!(place.straight(&format!("sslmode=verify-full sslrootcert={root}")).await, CERTIFICATE, "{name}");
        assert_eq!(place.straight(&format!("sslmode=verify-ca sslrootcert={}", place.root)).await, CERTIFICATE, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_its_own_issuer_is_accepted_where_exactly_it_is_named() {
    let place = Place::new().await;
    let names = ["127.0.0.1"];
    let own = self_signed(&names, Validity::Good);
    place.server.show(&own).await;
    let root = place.files.write("own.crt", &own.certificate);
    assert_eq!(place.straight(&format!("sslmode=verify-ca sslrootcert={root}")).await, Encrypted);
    assert_eq!(place.straight(&format!("sslmode=verify-full sslrootcert={root}")).await, Encrypted);
    for (what, issued, ca) in [
        ("another one", self_signed(&names, Validity::Good), CERTIFICATE),
        ("expired", self_signed(&names, Validity::Expired), CERTIFICATE),
        ("not yet valid", self_signed(&names, Validity::Early), CERTIFICATE),
        ("another name", self_signed(&["db.example.org"], Validity::Good), Encrypted),
    ] {
        place.server.show(&issued).await;
        // One that is not the one shown, in the case of the first.
        let named = if what == "another one" { &own } else { &issued };
        let root = place.files.write("own.crt", &named.certificate);
        assert_eq!(place.straight(&format!("sslmode=verify-ca sslrootcert={root}")).await, ca, "{what}");
        assert_eq!(place.straight(&format!("sslmode=verify-full sslrootcert={root}")).await, CERTIFICATE, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_revoked_is_refused() {
    let place = Place::new().await;
    let names = ["127.0.0.1"];
    let (kept, lost) = (place.ours.server(&names, Validity::Good), place.ours.server(&names, Validity::Good));
    let list = place.files.write("crl.pem", &place.ours.revocations(&[&lost], Validity::Good));
    let old = place.files.write("old.pem", &place.ours.revocations(&[], Validity::Expired));
    let foreign = place.files.write("foreign.pem", &Authority::new("x").revocations(&[], Validity::Good));
    for mode in ["verify-ca", "verify-full"] {
        let with = |list: &str| format!("sslmode={mode} sslrootcert={} sslcrl={list}", place.root);
        place.server.show(&kept).await;
        assert_eq!(place.straight(&with(&list)).await, Encrypted);
        assert_eq!(place.straight(&with(&old)).await, CERTIFICATE, "the list itself is over");
        assert_eq!(place.straight(&with(&foreign)).await, CERTIFICATE, "it says nothing about our issuer's");
        place.server.show(&lost).await;
        assert_eq!(place.straight(&with(&list)).await, CERTIFICATE);
        assert_eq!(place.straight(&format!("sslmode={mode} sslrootcert={}", place.root)).await, Encrypted);
    }
}
