//! `doctor`: what works here, and what would mend the rest.

use clap::Args;
use clawfarm_model::target::{Check, CheckLevel};

use crate::app::App;
use crate::errors::{FAILED, OK, Outcome};
use crate::output::clean_line;

/// `clawfarm doctor`.
#[derive(Debug, Args)]
#[command(
    long_about = "Looks at the server and at each runtime: usable or not, why, and the command that mends it. Ends with 0 when the server is well and at least one runtime can be used, and with 1 otherwise.",
    after_help = "Examples:\n  clawfarm doctor\n  clawfarm doctor --json"
)]
pub(crate) struct DoctorArgs {}

/// `clawfarm doctor`.
pub(crate) async fn run(app: &App, _args: &DoctorArgs) -> Outcome {
    let doctor = app.client().await?.doctor().await?;
    if app.ui.json {
        app.ui.document(&doctor)?;
    } else {
        app.ui.line(app.ui.out.bold("server"))?;
        checks(app, &doctor.server)?;
        for diagnosis in &doctor.runtimes {
            let verdict =
                if diagnosis.usable { app.ui.out.green("usable") } else { app.ui.out.red("not usable") };
            app.ui.line(format_args!("\n{}: {verdict}", app.ui.out.bold(diagnosis.runtime.as_str())))?;
            checks(app, &diagnosis.checks)?;
        }
    }
    let well = doctor.server.iter().all(|c| c.level != CheckLevel::Error);
    let usable = doctor.runtimes.iter().any(|d| d.usable);
    Ok(if well && usable { OK } else { FAILED })
}

fn checks(app: &App, checks: &[Check]) -> Result<(), crate::errors::Failure> {
    for check in checks {
        let mark = match check.level {
            CheckLevel::Ok => app.ui.out.green("ok  "),
            CheckLevel::Warning => app.ui.out.yellow("warn"),
            CheckLevel::Error => app.ui.out.red("FAIL"),
        };
        app.ui.line(format_args!("  {mark}  {}: {}", clean_line(&check.name), clean_line(&check.detail)))?;
        if let Some(fix) = &check.fix {
            app.ui.line(format_args!("        fix: {}", clean_line(fix)))?;
        }
    }
    Ok(())
}
