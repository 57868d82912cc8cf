// Counts of new events: each event once, when it becomes visible.

use sandmill::store::Tally;
use sandmill_tests::database;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_counted_once_when_its_transaction_ends() {
    let database = database().await;
    database.append("acme", "before", &[json!(0)]).await;
    let session = database.db.connect("tally").await.unwrap();
    let mut tally = Tally::from_now(&session).await.unwrap();
    let mut counts = async || {
        let mut counts = tally.new_events(&session).await.unwrap();
        counts.sort();
        counts
    };
    assert_eq!(counts().await, []);

    let mut slow = database.db.connect("slow").await.unwrap();
    let transaction = slow.client_mut().transaction().await.unwrap();
    let append = "select * from sandmill.append('slow', 's', array['T', 'T'], array['1', '2']::json[])";
    transaction.query(append, &[]).await.unwrap();
    database.append("acme", "a", &[json!(1), json!(2)]).await;
    database.append("globex", "g", &[json!(3)]).await;
    assert_eq!(counts().await, [("acme".to_owned(), 2), ("globex".to_owned(), 1)]);
    database.append("acme", "a", &[json!(4)]).await;
    assert_eq!(counts().await, [("acme".to_owned(), 1)]);
    // Its positions are lower than all of these.
    transaction.commit().await.unwrap();
    assert_eq!(counts().await, [("slow".to_owned(), 2)]);
    assert_eq!(counts().await, []);
}
