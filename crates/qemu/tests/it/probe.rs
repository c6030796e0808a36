//! Which accelerator there is on the machine that runs the tests.

use clawfarm_model::target::CheckLevel;
use clawfarm_qemu::{Accelerator, Probed, Qemu};

#[tokio::test]
async fn it_is_found_out_once_a_boot() {
    let qemu = Qemu::find().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new/accelerator.json");
    let found = Probed::known(&qemu, None, &file).await.unwrap();
    let check = found.check();
    match found.accelerator {
        Accelerator::Kvm => {
            assert!(found.reason.is_none() && found.kvm_ms.unwrap() <= found.tcg_ms, "{found:?}");
            assert_eq!(check.level, CheckLevel::Ok);
        }
        Accelerator::Tcg => {
            assert!(found.reason.is_some() && check.fix.is_some(), "{found:?}");
            assert_eq!(check.level, CheckLevel::Warning);
        }
    }
    eprintln!("{check:?}");

    // What is remembered is believed: another number is read, and not found out.
    let text = std::fs::read_to_string(&file).unwrap();
    let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    kept["probed"]["tcg_ms"] = 123_456_789.into();
    std::fs::write(&file, kept.to_string()).unwrap();
    assert_eq!(Probed::known(&qemu, None, &file).await.unwrap().tcg_ms, 123_456_789);

    // Not after the next boot, and not when it can't be read.
    for broken in [kept.to_string().replace("\"boot_id\":\"", "\"boot_id\":\"x"), "{".into(), String::new()] {
        std::fs::write(&file, broken).unwrap();
        let again = Probed::known(&qemu, None, &file).await.unwrap();
        assert!(again.tcg_ms < 123_456_789);
        assert_eq!(again.accelerator, found.accelerator);
        if found.accelerator == Accelerator::Tcg {
            // Each costs seconds where KVM hangs.
            break;
        }
    }
}
