//! Deliveries to receivers on this machine, well-behaved and hostile ones.

mod receiver;

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

use super::*;
use crate::model::{
    ids::TenantId,
    outbound::{ADDRESS_DENIED, GONE, MALFORMED, Next, REDIRECTS, REJECTED, TIMEOUT, UNAVAILABLE, UNREACHABLE},
};
use receiver::{Act, Receiver, answer, certificate};

pub(super) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A secret for tests.
pub(super) fn secret() -> Secret {
    Secret::parse(SECRET).unwrap()
}

/// A message for tests.
pub(super) fn message() -> Message {
    Message {
        id: "00112233445566778899aabbccddeeff".into(),
        tenant: TenantId::parse("acme").unwrap(),
        sequence: 1_842,
        lane: "order-mails acme".into(),
        message_type: "OrderPlaced".into(),
        headers: Vec::new(),
        body: r#"{"order":17}"#.into(),
        created_at: 1_357_016_400_987,
        source: "order-mails".into(),
    }
}

/// A resolver that gives one answer after the other, the last one again and again.
struct Scripted {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |addresses: &&[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Scripted { answers: Mutex::new(answers.iter().map(parse).collect()), asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolver for Scripted {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(std::future::ready(answer.ok_or_else(|| io::Error::other("no such name"))))
    }
}

/// A resolver that never answers.
struct Silent;

impl Resolver for Silent {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(std::future::pending())
    }
}

/// The settings of a webhook with a token in its path, which may contact these networks.
fn settings(url: &str, allowed: &[&str]) -> WebhookSettings {
    WebhookSettings {
        url: format!("{url}/hooks/T0K3NT0K3N").parse().unwrap(),
        secrets: vec![secret()],
        timeout: DEFAULT_TIMEOUT,
        allow_addresses: allowed.iter().map(|network| network.parse().unwrap()).collect(),
        cloudevents: false,
    }
}

/// A webhook to a receiver on this machine, which it may contact.
fn webhook(receiver: &Receiver) -> Webhook {
    Webhook::new(settings(&format!("http://{}", receiver.address), &["127.0.0.1"])).unwrap()
}

/// The same with a short limit, for receivers that do not answer.
fn impatient(receiver: &Receiver) -> Webhook {
    let settings = settings(&format!("http://{}", receiver.address), &["127.0.0.1"]);
    Webhook::new(WebhookSettings { timeout: Duration::from_millis(100), ..settings }).unwrap()
}

/// A webhook to a name at a receiver's port.
fn named(receiver: &Receiver, resolver: &Arc<Scripted>, allowed: &[&str]) -> Webhook {
    let url = format!("http://shop.example.com:{}", receiver.address.port());
    Webhook::with_resolver(settings(&url, allowed), resolver.clone()).unwrap()
}

/// The failure of a delivery to a receiver that does the same about every request.
async fn failure(act: Act) -> DeliveryFailure {
    let receiver = Receiver::start(move |_| act.clone()).await;
    webhook(&receiver).deliver(&message()).await.unwrap_err()
}

const RETRY: Next = Next::Retry { after: None };

#[tokio::test]
async fn a_message_is_posted_with_a_signature() {
    let receiver = Receiver::friendly().await;
    webhook(&receiver).deliver(&message()).await.unwrap();
    let requests = receiver.requests();
    let [request] = &requests[..] else { panic!("{requests:?}") };
    assert!(request.starts_with("POST /hooks/T0K3NT0K3N HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"order\":17}"), "{request}");
    assert!(request.contains(&format!("\r\nhost: {}\r\n", receiver.address)), "{request}");
    let header = |name: &str| {
        let line = request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("{name}: {request}")).to_owned()
    };
    let signature = secret().sign(&message().id, header("webhook-timestamp").parse().unwrap(), &message().body);
    assert_eq!((header("webhook-id"), header("webhook-signature")), (message().id.into(), signature));
}

#[tokio::test]
async fn connections_are_kept_for_later_messages() {
    let receiver = Receiver::friendly().await;
    let webhook = webhook(&receiver);
    for _ in 0..20 {
        webhook.deliver(&message()).await.unwrap();
    }
    assert_eq!((receiver.requests().len(), receiver.connections()), (20, 1));
    let message = message();
    let delivered = join_all((0..10).map(|_| webhook.deliver(&message))).await;
    assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
    let opened = receiver.connections();
    assert!(opened <= 10, "{opened}");
    join_all((0..10).map(|_| webhook.deliver(&message))).await;
    assert_eq!((receiver.requests().len(), receiver.connections()), (40, opened));
}

#[tokio::test]
async fn a_status_decides_what_happens_next() {
    let send = |status, headers, body| failure(Act::Send(answer(status, headers, body)));
    let busy = send("500 Internal Server Error", "", "out of \x1b disk").await;
    assert_eq!((busy.class, &busy.next), (UNAVAILABLE, &RETRY));
    assert!(busy.message.ends_with(r#"answered 500 Internal Server Error: "out of \u{1b} disk""#), "{busy}");
    let limited = send("429 Too Many Requests", "retry-after: 7\r\n", "").await;
    assert_eq!((limited.class, limited.next), (UNAVAILABLE, Next::Retry { after: Some(Duration::from_secs(7)) }));
    let refused = send("422 Unprocessable Entity", "", "no such order").await;
    assert_eq!((refused.class, refused.next), (REJECTED, Next::Reject));
    let gone = send("410 Gone", "", "").await;
    assert_eq!((gone.class, gone.next), (GONE, Next::Stop));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Receiver::friendly().await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let location = format!("location: http://{}/\r\n", other.address);
        let failure = failure(Act::Send(answer(status, &location, ""))).await;
        assert_eq!((failure.class, failure.next), (REDIRECTS, RETRY));
    }
    assert_eq!((other.connections(), other.requests().len()), (0, 0));
}

#[tokio::test]
async fn broken_connections_are_retried_later() {
    for (act, class) in [
        (Act::Reset, UNREACHABLE),
        (Act::SendAndClose(String::new()), UNREACHABLE),
        (Act::SendAndClose("HTTP/1.1 20".into()), UNREACHABLE),
        (Act::SendAndClose("SSH-2.0-OpenSSH_9.9\r\n".into()), MALFORMED),
        (Act::Send("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".into()), MALFORMED),
        (Act::SendForever("HTTP/1.1 200 OK\r\nx: a".into()), MALFORMED),
    ] {
        let failure = failure(act.clone()).await;
        assert_eq!((failure.class, failure.next), (class, RETRY), "{act:?}: {}", failure.message);
    }
    let closed = Receiver::friendly().await;
    let webhook = webhook(&closed);
    drop(closed);
    let failure = until_refused(&webhook).await;
    assert_eq!((failure.class, failure.next), (UNREACHABLE, RETRY));
}

/// Delivers until the receiver's port is closed, which takes a moment after it is dropped.
async fn until_refused(webhook: &Webhook) -> DeliveryFailure {
    loop {
        if let Err(failure) = webhook.deliver(&message()).await {
            return failure;
        }
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_costs_one_timeout() {
    for begun in ["", "HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let receiver = Receiver::start(move |_| Act::SendAndHang(begun.into())).await;
        let failure = impatient(&receiver).deliver(&message()).await.unwrap_err();
        assert_eq!((failure.class, failure.next), (TIMEOUT, RETRY), "{begun}");
        assert!(failure.message.ends_with("no answer within 100ms"), "{}", failure.message);
    }
    // A name server hangs as well as a receiver.
    let receiver = Receiver::friendly().await;
    let url = format!("http://shop.example.com:{}", receiver.address.port());
    let short = WebhookSettings { timeout: Duration::from_millis(100), ..settings(&url, &[]) };
    let failure = Webhook::with_resolver(short, Arc::new(Silent)).unwrap().deliver(&message()).await.unwrap_err();
    assert_eq!((failure.class, failure.next), (TIMEOUT, RETRY));

    // Informational answers without end.
    let receiver = Receiver::start(|_| Act::SendAndHang("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000))).await;
    let failure = impatient(&receiver).deliver(&message()).await.unwrap_err();
    assert_eq!(failure.class, TIMEOUT);
}

#[tokio::test]
async fn the_head_of_an_answer_decides_even_if_its_body_does_not_end() {
    let receiver = Receiver::start(|number| match number {
        0 => Act::SendForever("HTTP/1.1 200 OK\r\n\r\nx".into()),
        1 => Act::SendForever("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 9999999999\r\n\r\nx".into()),
        2 => Act::SendAndHang("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nx".into()),
        3 => Act::SendAndHang("HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n5\r\nworst".into()),
        _ => Act::SendAndClose("HTTP/1.1 400 Bad Request\r\ncontent-length: 9\r\n\r\nshort".into()),
    })
    .await;
    let webhook = webhook(&receiver);
    webhook.deliver(&message()).await.unwrap();
    let endless = webhook.deliver(&message()).await.unwrap_err();
    assert_eq!(endless.class, UNAVAILABLE);
    assert!(endless.message.ends_with(&format!(": \"{}…\"", "x".repeat(200))), "{endless}");
    webhook.deliver(&message()).await.unwrap();
    for said in ["worst", "short"] {
        let failure = webhook.deliver(&message()).await.unwrap_err();
        assert!(failure.class == REJECTED && failure.message.ends_with(&format!(": \"{said}…\"")), "{failure}");
    }
    assert_eq!(receiver.connections(), 5, "none of them can be used again");
}

#[tokio::test]
async fn a_kept_connection_that_is_dead_is_replaced_once() {
    // The receiver closes the connection after its answer, without announcing it.
    let receiver = Receiver::start(|_| Act::SendAndClose(answer("200 OK", "", ""))).await;
    let sink = webhook(&receiver);
    for _ in 0..5 {
        sink.deliver(&message()).await.unwrap();
    }
    assert_eq!((receiver.requests().len(), receiver.connections()), (5, 5));

    // It closes the connection when the next request arrives, first in between and then at once.
    let receiver = Receiver::start(|number| match number {
        1 | 3 => Act::Reset,
        4 => Act::SendAndClose(String::new()),
        _ => Act::Send(answer("200 OK", "", "")),
    })
    .await;
    let sink = webhook(&receiver);
    sink.deliver(&message()).await.unwrap();
    sink.deliver(&message()).await.unwrap();
    assert_eq!((receiver.requests().len(), receiver.connections()), (3, 2));
    let failure = sink.deliver(&message()).await.unwrap_err();
    assert_eq!((failure.class, receiver.requests().len(), receiver.connections()), (UNREACHABLE, 5, 3));
}

#[tokio::test]
async fn an_answer_that_has_begun_is_not_requested_again() {
    let receiver = Receiver::start(|number| match number {
        0 => Act::Send(answer("200 OK", "", "")),
        _ => Act::SendAndClose("HTTP/1.1 2".into()),
    })
    .await;
    let webhook = webhook(&receiver);
    webhook.deliver(&message()).await.unwrap();
    assert_eq!(webhook.deliver(&message()).await.unwrap_err().class, UNREACHABLE);
    assert_eq!(receiver.requests().len(), 2);
}

#[tokio::test]
async fn names_that_lead_inside_are_not_contacted() {
    let receiver = Receiver::friendly().await;
    let inside: [&[&str]; 8] = [
        &["127.0.0.1"],
        &["10.0.0.1"],
        &["::1"],
        &["::ffff:127.0.0.1"],
        &["64:ff9b::7f00:1"],
        &["2002:7f00:1::1"],
        &["169.254.169.254"],
        // A public address does not excuse the other one, in any order.
        &["192.0.2.1", "127.0.0.1"],
    ];
    for addresses in inside {
        let webhook = named(&receiver, &Scripted::new(&[addresses]), &["192.0.2.0/24"]);
        let failure = webhook.deliver(&message()).await.unwrap_err();
        assert_eq!((failure.class, failure.next), (ADDRESS_DENIED, RETRY), "{addresses:?}");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_cannot_evade_the_check() {
    let receiver = Receiver::start(|_| Act::SendAndClose(answer("200 OK", "connection: close\r\n", ""))).await;
    let resolver = Scripted::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let webhook = named(&receiver, &resolver, &["127.0.0.1"]);
    webhook.deliver(&message()).await.unwrap();
    assert_eq!(resolver.asked(), 1, "the address that was checked is the one that is used");
    let failure = webhook.deliver(&message()).await.unwrap_err();
    assert_eq!((failure.class, resolver.asked(), receiver.connections()), (ADDRESS_DENIED, 2, 1));
    assert!(failure.message.contains("127.0.0.2 is a loopback address"), "{failure}");
}

#[tokio::test]
async fn each_address_of_a_name_is_tried() {
    let receiver = Receiver::friendly().await;
    let webhook = named(&receiver, &Scripted::new(&[&["127.0.0.2", "127.0.0.1"]]), &["127.0.0.0/8"]);
    webhook.deliver(&message()).await.unwrap();
    let unknown = named(&receiver, &Scripted::new(&[]), &[]);
    let failure = unknown.deliver(&message()).await.unwrap_err();
    assert_eq!((failure.class, failure.next), (UNREACHABLE, RETRY));
    let empty = named(&receiver, &Scripted::new(&[&[]]), &[]);
    assert_eq!(empty.deliver(&message()).await.unwrap_err().class, UNREACHABLE);
}

#[tokio::test]
async fn certificates_are_verified() {
    let receiver = Receiver::encrypted().await;
    let webhook = |authority: &str, host: &str| {
        let authorities = CertificateDer::pem_file_iter(certificate(authority)).unwrap().map(Result::unwrap);
        let url = format!("https://{host}:{}", receiver.address.port());
        let resolver = Scripted::new(&[&["127.0.0.1"]]);
        let tls = tls::trusting(authorities).unwrap();
        Webhook::with_parts(settings(&url, &["127.0.0.1"]), resolver, Some(tls)).unwrap()
    };
    for host in ["localhost", "127.0.0.1"] {
        let trusting = webhook("authority.crt", host);
        for _ in 0..3 {
            trusting.deliver(&message()).await.unwrap();
        }
    }
    assert_eq!((receiver.requests().len(), receiver.connections()), (6, 2));
    for (authority, host) in [("alone.crt", "localhost"), ("authority.crt", "other.example")] {
        let failure = webhook(authority, host).deliver(&message()).await.unwrap_err();
        assert_eq!((failure.class, &failure.next), (UNREACHABLE, &RETRY));
        assert!(failure.message.contains("TLS failed: invalid peer certificate"), "{failure}");
    }
    assert_eq!(receiver.requests().len(), 6);
}

#[tokio::test]
async fn secrets_appear_in_no_text() {
    let bare = &SECRET["whsec_".len()..];
    let said = format!("no {SECRET} but {bare} at /hooks/T0K3NT0K3N");
    let mut texts = vec![format!("{:?}", settings("https://example.com", &[]))];
    let (head, forever) = (answer("500 Oh", "", &said), format!("HTTP/1.1 400 {said}\r\n\r\n{said}"));
    for act in [Act::Send(head), Act::SendForever(forever), Act::SendAndClose(said), Act::Reset] {
        let failure = failure(act).await;
        texts.push(format!("{failure} {failure:?}"));
    }
    for text in texts {
        assert!(!text.contains(bare) && !text.contains("T0K3N"), "{text}");
    }
}

#[test]
fn unsafe_settings_are_rejected() {
    let rejected = |settings| Webhook::new(settings).map(drop).unwrap_err();
    let good = || settings("http://example.com", &[]);
    assert!(Webhook::new(good()).is_ok());
    assert_eq!(rejected(WebhookSettings { secrets: Vec::new(), ..good() }), InvalidWebhook::NoSecret);
    for timeout in [Duration::ZERO, LONGEST_TIMEOUT + Duration::from_nanos(1), Duration::MAX] {
        assert_eq!(rejected(WebhookSettings { timeout, ..good() }), InvalidWebhook::Timeout);
    }
    for inside in ["127.0.0.1", "0x7f.1", "2130706433", "10.1.2.3:8080", "[::1]", "[::ffff:10.0.0.1]"] {
        let error = rejected(settings(&format!("http://{inside}"), &["10.9.0.0/16"]));
        assert!(matches!(error, InvalidWebhook::Denied(_)), "{inside}: {error}");
    }
    assert!(Webhook::new(settings("http://[::ffff:10.1.2.3]", &["10.0.0.0/8"])).is_ok());
}
