//! DNS-01 through Route 53: the SDK against a double of its HTTP API that makes the records in the authority's DNS.
//!
//! The double keeps to what Route 53 does where it matters: a change is PENDING first, and no DNS server has it before it is INSYNC;
//! a record is deleted only by its exact content; zones are private or public.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;

use crate::authority::{Authority, Wanted};
use crate::program::{Start, place};
use crate::support::{free_address, request};

const NAMESPACE: &str = "xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"";

/// Number, name, and whether it is private.
const ZONES: [(&str, &str, bool); 3] = [
    ("ZPRIVATE", "example.com.", true),
    ("ZPUBLIC", "example.com.", false),
    ("ZSUB", "sub.example.com.", false),
];

/// By zone and name.
type Records = BTreeMap<(String, String), Vec<String>>;

#[derive(Debug, Default)]
struct Account {
    records: Records,
    /// What has been asked for, and has reached no DNS server yet.
    pending: bool,
    /// How often a change was asked after.
    asked: u32,
    /// How many changes there were.
    changes: u32,
}

#[derive(Debug, Clone)]
struct Double {
    account: Arc<Mutex<Account>>,
    dns: SocketAddr,
}

/// The text between the first pair of these tags, and what is behind them.
fn element<'a>(xml: &'a str, tag: &str) -> Option<(&'a str, &'a str)> {
    let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>"))
}

fn values(xml: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = xml;
    while let Some((value, behind)) = element(rest, "Value") {
        found.push(value.replace("&quot;", "\""));
        rest = behind;
    }
    found
}

fn record_xml(name: &str, values: &[String]) -> String {
    let value = |value| format!("<ResourceRecord><Value>{value}</Value></ResourceRecord>");
    let values: String = values.iter().map(value).collect();
    format!(
        "<ResourceRecordSet><Name>{name}</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords>{values}</ResourceRecords></ResourceRecordSet>"
    )
}

impl Double {
    async fn start(dns: SocketAddr, records: Records) -> (Self, SocketAddr) {
        let double = Self {
            account: Arc::new(Mutex::new(Account {
                records,
                ..Account::default()
            })),
            dns,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(double.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (double, addr)
    }

    fn zones(&self, uri: &Uri) -> Response {
        let query = uri.query().unwrap_or_default();
        if query.contains("denied.example") {
            let error = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not with this role</Message></Error></ErrorResponse>";
            return (StatusCode::FORBIDDEN, error).into_response();
        }
        // From the name that is asked for on, as Route 53 does.
        let zones = ZONES.map(|(id, name, private)| {
            format!(
                "<HostedZone><Id>/hostedzone/{id}</Id><Name>{name}</Name><CallerReference>c</CallerReference><Config><PrivateZone>{private}</PrivateZone></Config></HostedZone>"
            )
        });
        format!("<ListHostedZonesByNameResponse {NAMESPACE}><HostedZones>{}</HostedZones><IsTruncated>false</IsTruncated><MaxItems>100</MaxItems></ListHostedZonesByNameResponse>", zones.concat())
            .into_response()
    }

    fn record(&self, zone: &str, uri: &Uri) -> Response {
        let query = uri.query().unwrap_or_default();
        assert!(query.contains("type=TXT"), "{query}");
        let account = self.account.lock();
        // The first one that is not before the name, which may be another one.
        let found = account.records.iter().find(|((of, name), _)| {
            of == zone && query.contains(&format!("name={}", name.trim_end_matches('.')))
        });
        let other = ("zzz.example.com.".to_owned(), vec!["\"other\"".to_owned()]);
        let (name, values) =
            found.map_or(other, |((_, name), values)| (name.clone(), values.clone()));
        format!("<ListResourceRecordSetsResponse {NAMESPACE}><ResourceRecordSets>{}</ResourceRecordSets><IsTruncated>false</IsTruncated><MaxItems>1</MaxItems></ListResourceRecordSetsResponse>", record_xml(&name, &values))
            .into_response()
    }

    async fn change(&self, zone: &str, body: &str) -> Response {
        let name = element(body, "Name").expect("a name").0;
        let name = format!("{}.", name.trim_end_matches('.'));
        let action = element(body, "Action").expect("an action").0;
        let key = (zone.to_owned(), name.clone());
        let deleted = action == "DELETE";
        {
            let mut account = self.account.lock();
            if deleted {
                let had = account.records.remove(&key);
                assert_eq!(had, Some(values(body)), "not what is there");
            } else {
                assert_eq!(action, "UPSERT");
                account.records.insert(key, values(body));
            }
            account.pending = true;
            account.asked = 0;
            account.changes += 1;
        }
        if deleted {
            self.publish().await;
        }
        self.info("ChangeResourceRecordSetsResponse", "PENDING")
    }

    async fn status(&self) -> Response {
        let seen = {
            let mut account = self.account.lock();
            account.asked += 1;
            account.asked > 1
        };
        if !seen {
            return self.info("GetChangeResponse", "PENDING");
        }
        self.publish().await;
        self.info("GetChangeResponse", "INSYNC")
    }

    fn info(&self, response: &str, status: &str) -> Response {
        format!("<{response} {NAMESPACE}><ChangeInfo><Id>/change/C1</Id><Status>{status}</Status><SubmittedAt>2026-11-24T00:00:00Z</SubmittedAt></ChangeInfo></{response}>")
            .into_response()
    }

    /// Tells the authority's DNS server.
    async fn publish(&self) {
        let records = {
            let mut account = self.account.lock();
            account.pending = false;
            account.records.clone()
        };
        for ((_, host), values) in records {
            self.tell("clear-txt", &json!({ "host": host })).await;
            for value in values {
                let value = value.trim_matches('"');
                self.tell("set-txt", &json!({ "host": host, "value": value }))
                    .await;
            }
        }
    }

    async fn tell(&self, what: &str, body: &serde_json::Value) {
        let body = body.to_string();
        let head = format!(
            "POST /{what} HTTP/1.1\r\nHost: dns\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = request(self.dns, head + &body).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
}

async fn answer(State(double): State<Double>, uri: Uri, body: String) -> Response {
    let path: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    match path[..] {
        ["2013-04-01", "hostedzonesbyname"] => double.zones(&uri),
        ["2013-04-01", "hostedzone", zone, "rrset"] if body.is_empty() => double.record(zone, &uri),
        ["2013-04-01", "hostedzone", zone, "rrset"] => double.change(zone, &body).await,
        ["2013-04-01", "change", "C1"] => double.status().await,
        _ => panic!("{uri}: {body}"),
    }
}

/// A relay whose authority looks at the DNS; its port for challenges leads nowhere.
async fn start(test: &str, domains: &str, records: Records) -> Option<(Start, Authority, Double)> {
    let (dir, port) = place(test);
    let wanted = Wanted {
        lifetime: 7_776_000,
        challenge_port: free_address().port(),
    };
    let authority = Authority::start(test, &dir, wanted).await?;
    let (double, aws) = Double::start(authority.dns_management, records).await;
    let mut start = Start::with(&dir, &authority, port, domains);
    start.args.push("--letsencrypt-aws-route53".to_owned());
    let env = [
        ("AWS_ENDPOINT_URL", format!("http://{aws}")),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "very-secret-key".to_owned()),
        // Nobody is to be asked where this machine is.
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ];
    start.env = env.map(|(name, value)| (name.to_owned(), value)).into();
    Some((start, authority, double))
}

#[tokio::test]
async fn a_wildcard_is_shown_to_be_ours_and_the_records_of_others_stay() {
    let key = |zone: &str, name: &str| (zone.to_owned(), format!("_acme-challenge.{name}."));
    let others = Records::from([(
        key("ZPUBLIC", "example.com"),
        vec!["\"of-somebody-else\"".to_owned()],
    )]);
    let domains = "*.example.com,example.com,a.sub.example.com";
    let Some((start, authority, double)) = start("route53", domains, others.clone()).await else {
        return;
    };
    let program = start.start().await;
    program
        .says("certificate obtained by ACME, in use now")
        .await;
    program.until_orders("ok", 1).await;
    let roots = authority.issuer().await;
    for domain in ["relay.example.com", "example.com", "a.sub.example.com"] {
        program.certificate(domain, &roots).await;
    }
    assert!(program.logged("ACME challenge answered").is_empty());
    assert!(!program.log_text().contains("very-secret-key"));
    let account = double.account.lock();
    // Two records were made, and taken back.
    assert_eq!(account.changes, 4);
    assert_eq!(account.records, others);
}

#[tokio::test]
async fn what_aws_refuses_and_a_zone_that_is_not_there_are_said() {
    for (domain, expected) in [
        ("relay.denied.example", "not with this role"),
        ("relay.elsewhere.test", "no public zone"),
    ] {
        let Some((start, _authority, _double)) =
            start(&format!("route53-{domain}"), domain, Records::new()).await
        else {
            return;
        };
        let program = start.start().await;
        program.until_orders("dns", 1).await;
        let line = program.says("no certificate by ACME").await;
        let error = line["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
        assert!(
            error.contains(&format!("_acme-challenge.{domain}")),
            "{error}"
        );
        assert!(!program.log_text().contains("very-secret-key"));
    }
}
