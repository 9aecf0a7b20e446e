//! The other pods, if there are any: how they are found, what they share, and TLS between them.

use std::net::SocketAddr;

use super::super::env::{Origin, variables};
use super::super::flags::{self, Setting};
use super::super::mistakes::{Mistake, Wrong};
use super::super::settings::{ClusterSettings, ClusterTlsSettings};
use super::super::values;
use super::{PEER_QUEUE_MAX, Reader};
use crate::cluster::{PodTls, PodTlsFiles};
use crate::tls::CertificateFiles;

/// What TLS between pods needs.
const CLUSTER_TLS_FILES: [&Setting; 3] = [
    &flags::CLUSTER_TLS_CERT_FILE,
    &flags::CLUSTER_TLS_KEY_FILE,
    &flags::CLUSTER_TLS_CA_FILE,
];

/// The least a pod's queue may hold, in bytes: two peers' queues.
const POD_QUEUE_MIN: usize = 1 << 20;

impl Reader<'_> {
    /// The other pods, if there are to be any. Each value is judged even if there are none.
    pub(super) fn cluster(&mut self) -> Option<ClusterSettings> {
        let port = self.read(&flags::CLUSTER_PORT, |text| {
            values::count(text, 1..=u16::MAX)
        });
        let pod_ip = self.read_optional(&flags::POD_IP, values::pod_ip);
        let headless = self.read_optional(&flags::CLUSTER_HEADLESS, |text| {
            values::headless(text, port.unwrap_or_default())
        });
        let peers = self.read_optional(&flags::CLUSTER_PEERS, values::pods);
        let auth_secret = self.secret(
            &flags::CLUSTER_AUTH_SECRET,
            &flags::CLUSTER_AUTH_SECRET_FILE,
        );
        let allow_one_way = self.read(&flags::CLUSTER_ALLOW_ONE_WAY, values::switch);
        let tls = self.cluster_tls();
        let queue_bytes = self.read(&flags::CLUSTER_QUEUE_BYTES, |text| {
            values::bytes(text, POD_QUEUE_MIN..=PEER_QUEUE_MAX)
        });
        let asked = [
            (&flags::CLUSTER_HEADLESS, headless),
            (&flags::CLUSTER_PEERS, peers),
        ];
        let asking = asked
            .iter()
            .find(|(_, sources)| sources.as_ref().is_some_and(|sources| !sources.is_empty()))
            .map(|(setting, _)| self.named(setting));
        if !self.asks_for_pods() {
            // A pod's address, its port and its secret are often set where there is one pod as where there are several.
            self.without_effect(
                &[
                    &flags::CLUSTER_TLS_CERT_FILE,
                    &flags::CLUSTER_TLS_KEY_FILE,
                    &flags::CLUSTER_TLS_CA_FILE,
                    &flags::CLUSTER_TLS_NAME,
                    &flags::CLUSTER_ALLOW_PLAIN,
                    &flags::CLUSTER_ALLOW_ONE_WAY,
                    &flags::CLUSTER_QUEUE_BYTES,
                ],
                "there are no other pods without --cluster-headless or --cluster-peers",
            );
        }
        let asking = asking?;
        if CLUSTER_TLS_FILES
            .iter()
            .all(|file| self.given(file).is_none())
        {
            // Whoever asks for a name believes that names are checked.
            if let Some(name) = self.given(&flags::CLUSTER_TLS_NAME) {
                let files = CLUSTER_TLS_FILES.map(Setting::flag).join(", ");
                let problem = format!("there is no TLS between pods without {files}");
                self.wrong(
                    &name.origin,
                    Wrong::new(problem, "give these, too, or leave it out"),
                );
            }
            let without = "there is no TLS between pods without its three files";
            self.without_effect(&[&flags::CLUSTER_ALLOW_PLAIN], without);
        }
        if pod_ip.is_none() && self.given(&flags::POD_IP).is_none() {
            self.missing_with(&asking);
        }
        Some(ClusterSettings {
            sources: asked
                .into_iter()
                .filter_map(|(_, sources)| sources)
                .flatten()
                .collect(),
            announced: SocketAddr::new(pod_ip?, port?),
            auth_secret,
            allow_one_way: allow_one_way?,
            tls,
            queue_bytes: queue_bytes?,
        })
    }

    /// Whether it is said where other pods are, be it wrongly.
    pub(super) fn asks_for_pods(&self) -> bool {
        [&flags::CLUSTER_HEADLESS, &flags::CLUSTER_PEERS]
            .iter()
            .any(|setting| self.given(setting).is_some())
    }

    /// TLS between pods: the three files, or none of them.
    fn cluster_tls(&mut self) -> Option<ClusterTlsSettings> {
        let name = self.read_optional(&flags::CLUSTER_TLS_NAME, values::certificate_name);
        let allow_plain = self.read(&flags::CLUSTER_ALLOW_PLAIN, values::switch);
        let given = CLUSTER_TLS_FILES.map(|setting| self.given(setting));
        let origin = given.iter().flatten().next()?.origin.clone();
        let texts = given.map(|given| given.and_then(|given| self.text(&given)));
        let [Some(certificate), Some(key), Some(ca)] = texts else {
            let names = CLUSTER_TLS_FILES.map(Setting::flag).join(", ");
            let problem = format!("TLS between pods needs all of {names}");
            self.wrong(&origin, Wrong::new(problem, "give all three, or none"));
            return None;
        };
        let files = PodTlsFiles {
            own: CertificateFiles {
                certificate: certificate.into(),
                key: key.into(),
            },
            ca: ca.into(),
        };
        if let Err(error) = PodTls::load(files.clone(), name.clone(), false) {
            let remedy = "give the pod's certificate chain, its private key and the authorities as PEM files";
            let paths = [&files.own.certificate, &files.own.key, &files.ca];
            let blamed = paths.iter().position(|path| error.is_of(path));
            let blamed = blamed.and_then(|index| self.given(CLUSTER_TLS_FILES[index]));
            let origin = blamed.map_or(origin, |given| given.origin);
            self.wrong(&origin, Wrong::new(error.to_string(), remedy));
            return None;
        }
        Some(ClusterTlsSettings {
            files,
            name,
            allow_plain: allow_plain?,
        })
    }

    fn missing_with(&mut self, asking: &Origin) {
        let names = variables(flags::POD_IP.name).join(", ");
        self.mistakes.push(Mistake::new(
            flags::POD_IP.flag(),
            format!("is required with {asking}"),
            format!(
                "give the address by which other pods reach this one, or set one of {names}, POD_IP"
            ),
        ));
    }
}
