//! Certificates of all kinds, made anew for each test.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
    serial: u64,
}

impl Issued {
    /// One that was made elsewhere.
    pub fn of(certificate: &str, key: &str) -> Issued {
        Issued { certificate: certificate.to_owned(), key: key.to_owned(), serial: 0 }
    }
}

/// An issuer.
pub struct Authority {
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
    next: std::sync::atomic::AtomicU64,
}

/// When a certificate is, or was, valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Good,
    Expired,
    Early,
    /// For so many days more.
    Days(i64),
}

fn params(common_name: &str, names: &[&str], validity: Validity) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.not_before, params.not_after) = match validity {
        Validity::Good => (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1)),
        Validity::Expired => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
        Validity::Early => (date_time_ymd(2080, 1, 1), date_time_ymd(2090, 1, 1)),
        Validity::Days(days) => {
            let now =
                date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(jiff::Timestamp::now().as_second().unsigned_abs());
            (date_time_ymd(2020, 1, 1), now + std::time::Duration::from_secs(days.unsigned_abs() * 86_400))
        }
    };
    params
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = params(name, &[], Validity::Good);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Authority { certificate, issuer: Issuer::new(params, key), next: 1.into() }
    }

    /// For a server of these names and addresses.
    pub fn server(&self, names: &[&str], validity: Validity) -> Issued {
        self.issue(params("a server", names, validity), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client.
    pub fn client(&self, name: &str, validity: Validity) -> Issued {
        self.issue(params(name, &[], validity), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Issued {
        let serial = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { certificate, key: key.serialize_pem(), serial }
    }

    /// A list of what was revoked.
    pub fn revocations(&self, revoked: &[&Issued], validity: Validity) -> String {
        let times = params("", &[], validity);
        let revoked = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: SerialNumber::from(issued.serial),
            revocation_time: date_time_ymd(2020, 6, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: times.not_before,
            next_update: times.not_after,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

/// A certificate that is its own issuer, as `openssl req -x509` makes it: that of an issuer, and a server's.
pub fn self_signed(names: &[&str], validity: Validity) -> Issued {
    let mut params = params("a server of its own", names, validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    Issued { certificate: params.self_signed(&key).expect("a certificate").pem(), key: key.serialize_pem(), serial: 0 }
}

/// A directory of files that is removed at the end.
pub struct Files(pub std::path::PathBuf);

impl Files {
    pub fn new() -> Files {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("items-listen-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        Files(directory)
    }

    /// Writes a file that is its owner's alone, and gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.join(name);
        // Renamed into place, as whoever renews a certificate does it: it is never there in part.
        let new = self.0.join(format!("{name}.new"));
        std::fs::write(&new, text).expect("it is written");
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("it is the owner's");
        std::fs::rename(&new, &path).expect("it is put in place");
        path.display().to_string()
    }

    /// A client's certificate and key, as parameters of a connection string.
    pub fn client(&self, name: &str, issued: &Issued) -> String {
        let certificate = self.write(&format!("{name}.crt"), &issued.certificate);
        format!("sslcert={certificate} sslkey={}", self.write(&format!("{name}.key"), &issued.key))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}
