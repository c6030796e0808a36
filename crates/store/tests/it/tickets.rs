use clawfarm_model::Timestamp;

use crate::support::{Bed, On, on_both, owner, system};

on_both!(a_ticket_is_used_once_among_many_who_try);

async fn a_ticket_is_used_once_among_many_who_try(on: On) {
    let bed = Bed::new(on).await;
    let later = Timestamp::from_millis(Timestamp::now().as_millis() + 600_000);
    let tries = (0..20).map(|_| {
        let store = bed.store.clone();
        tokio::spawn(async move { store.spend_ticket(&system(), "t-1", later).await.unwrap() })
    });
    let tries: Vec<_> = tries.collect();
    let mut used = 0;
    for one in tries {
        used += usize::from(one.await.unwrap());
    }
    assert_eq!(used, 1);
    assert!(bed.store.spend_ticket(&system(), "t-2", later).await.unwrap());
    assert!(!bed.store.spend_ticket(&system(), "t-2", later).await.unwrap());
    // To a server whose clock is ahead it has ended; to one whose clock is not it must stay used.
    let over = Timestamp::from_millis(Timestamp::now().as_millis() - 600_000);
    assert!(bed.store.spend_ticket(&system(), "skewed", over).await.unwrap());
    assert!(bed.store.spend_ticket(&system(), "another", later).await.unwrap());
    assert!(!bed.store.spend_ticket(&system(), "skewed", over).await.unwrap());
    // One that has ended long ago is forgotten; its pass says itself that it has.
    assert!(bed.store.spend_ticket(&system(), "old", Timestamp::from_millis(1)).await.unwrap());
    assert!(bed.store.spend_ticket(&system(), "old", Timestamp::from_millis(1)).await.unwrap());
    assert!(bed.store.spend_ticket(&owner("default"), "t-3", later).await.is_err());
    assert!(bed.store.spend_ticket(&system(), &"x".repeat(65), later).await.is_err());
}
