use clawfarm_model::authz::{Action, Granted};
use clawfarm_model::event::NewEvent;
use clawfarm_model::secret::{SecretName, SecretOwner};
use clawfarm_model::{Code, Instance};
use clawfarm_store::{EventFilter, InstanceFilter, PageRequest, Recovered};
use secrecy::{ExposeSecret, SecretString};

use crate::support::{Bed, On, grant, instance, on_both, owner, system};

on_both!(what_was_lost_is_put_back_once_with_its_tenant_and_its_key);

fn leave(instance: &Instance) -> Granted {
    let tenant = instance.tenant.as_str();
    grant(&system(), Action::InstanceCreate, tenant, "instance", instance.id.as_str())
}

async fn what_was_lost_is_put_back_once_with_its_tenant_and_its_key(on: On) {
    let bed = Bed::new(on).await;
    let name = SecretName::new("clawfarm.gateway-token").unwrap();
    let lost = |tenant: &str, port| {
        let mut it = instance(tenant, "alice");
        it.port = Some(port);
        it.created_at = clawfarm_model::Timestamp::from_millis(1_000_000);
        it.spec.labels.insert("team".into(), "blue".into());
        Recovered {
            instance: it,
            event: NewEvent::warning("recovered", "its record was found"),
            secrets: vec![(name.clone(), SecretString::from("k3y"))],
        }
    };
    // Of a tenant that this store never heard of.
    let new = lost("acme", 18_789);
    let made = bed.store.recover_instance(&leave(&new.instance), &new).await.unwrap();
    let acme = owner("acme");
    let read = bed.store.instance(&acme, &made.id).await.unwrap();
    assert_eq!(read, made);
    assert_eq!((read.version, read.created_at, read.port), (1, new.instance.created_at, Some(18_789)));
    assert!(bed.store.projects(&acme).await.unwrap().iter().any(|(_, p)| *p == made.project));
    let of = SecretOwner::Instance(made.tenant.clone(), made.id.clone());
    let key = bed.store.secret_value(&acme, &of, &name).await.unwrap().unwrap();
    assert_eq!(key.expose_secret(), "k3y");
    let events = bed.store.events(&acme, &EventFilter::default(), 10).await.unwrap();
    assert_eq!(events.iter().map(|e| e.reason.as_str()).collect::<Vec<_>>(), ["recovered"]);
    let audit = bed.store.audit(&acme, &PageRequest::first()).await.unwrap().items;
    assert_eq!((audit[0].actor.as_str(), audit[0].object.as_str()), ("system:test", made.id.as_str()));
    assert!(bed.store.running_operation(&acme, &made.id).await.unwrap().is_none());
    assert!(bed.store.instances_waited_for(&system()).await.unwrap().is_empty());

    // What is there stays as it is, and what does not fit leaves no trace.
    let again = bed.store.recover_instance(&leave(&new.instance), &new).await.unwrap_err();
    assert_eq!((again.code(), again.field_name()), (Code::Conflict, Some("id")));
    let same_port = lost("fresh", 18_789);
    let refused = bed.store.recover_instance(&leave(&same_port.instance), &same_port).await.unwrap_err();
    assert_eq!((refused.code(), refused.field_name()), (Code::Conflict, Some("port")));
    assert!(bed.store.projects(&owner("fresh")).await.unwrap().is_empty(), "nor a tenant of its");
    let people = grant(&acme, Action::InstanceCreate, "acme", "instance", made.id.as_str());
    assert_eq!(bed.store.recover_instance(&people, &new).await.unwrap_err().code(), Code::Forbidden);
    let all =
        bed.store.instances(&system(), &InstanceFilter::default(), &PageRequest::first()).await.unwrap();
    assert_eq!(all.items, [made]);
}
