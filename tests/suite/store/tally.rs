// Counting what comes: each event once, when it is visible.

use sandmill::store::Tally;
use sandmill_tests::database;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_counted_once_and_when_its_transaction_ends() {
    let database = database().await;
    database.append("acme", "before", &[json!(0)]).await;
    let session = database.db.connect("tally").await.unwrap();
    let mut tally = Tally::from_now(&session).await.unwrap();
    let mut news = async || {
        let mut news = tally.news(&session).await.unwrap();
        news.sort();
        news
    };
    assert_eq!(news().await, []);

    let mut slow = database.db.connect("slow").await.unwrap();
    let transaction = slow.client_mut().transaction().await.unwrap();
    let append = "select * from sandmill.append('slow', 's', array['T', 'T'], array['1', '2']::json[])";
    transaction.query(append, &[]).await.unwrap();
    database.append("acme", "a", &[json!(1), json!(2)]).await;
    database.append("globex", "g", &[json!(3)]).await;
    assert_eq!(news().await, [("acme".to_owned(), 2), ("globex".to_owned(), 1)]);
    database.append("acme", "a", &[json!(4)]).await;
    assert_eq!(news().await, [("acme".to_owned(), 1)]);
    // Its positions are below all of these.
    transaction.commit().await.unwrap();
    assert_eq!(news().await, [("slow".to_owned(), 2)]);
    assert_eq!(news().await, []);
}
