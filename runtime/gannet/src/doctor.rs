//! `gannet doctor`: checks whether this machine can confine children and has a GPU. It starts a child that tries to
//! break its confinement, and one that lists the GPUs.

use clap::Args;
use gannet_cli::failure::{Failure, Outcome};
use gannet_cli::printer;
use gannet_fleet::probe;
use gannet_process::confine_check;
use gannet_process::spawn::Spawner;
use serde_json::json;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &DoctorArgs) -> Outcome {
    let failed = |error: std::io::Error| Failure::failed("the check could not be run").because(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let folder = std::env::temp_dir().join(format!("gannet-doctor-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("data")).map_err(failed)?;
        std::fs::write(folder.join("data").join("operator.key"), "x").map_err(failed)?;
        let outcome = check(&folder, arguments.json).await;
        // The command does not fail if its temporary folder cannot be removed.
        let _ = std::fs::remove_dir_all(&folder);
        outcome
    })
}

async fn check(folder: &std::path::Path, as_json: bool) -> Outcome {
    let failed = |error: std::io::Error| Failure::failed("the check could not be run").because(error);
    let spawner = Spawner::start(8 << 30).map_err(failed)?;
    let findings = confine_check::ask(&spawner, &folder.join("data"), folder).await.map_err(failed)?;
    let gpus = probe::list(&spawner, folder).await;
    let confined = findings.confinement.missing().is_empty() && findings.attempts.iter().all(|attempt| attempt.refused);
    if as_json {
        let gpus = gpus.as_ref().map_err(ToString::to_string);
        printer::json(&json!({
            "confinement": findings.confinement,
            "attempts": findings.attempts,
            "cgroups": spawner.has_cgroups(),
            "gpus": gpus.as_ref().ok(),
            "gpu_error": gpus.as_ref().err(),
        }));
    } else {
        print_findings(&findings, &gpus);
        printer::line(&format!(
            "{:44} {}",
            "control groups for children",
            if spawner.has_cgroups() { "ok" } else { "no; resource limits and a watchdog are used instead" }
        ));
    }
    match (confined, gpus) {
        (true, Ok(gpus)) if !gpus.is_empty() => Ok(()),
        (true, Ok(_)) => Err(Failure::failed("no gpu was found")
            .hint("install a Vulkan driver; without a GPU, on Debian: apt-get install mesa-vulkan-drivers")),
        (true, Err(error)) => Err(Failure::failed("the gpu drivers could not be listed").because(error)),
        (false, _) => Err(Failure::failed("children cannot be confined on this machine")),
    }
}

fn print_findings(findings: &confine_check::Findings, gpus: &std::io::Result<Vec<gannet_gpu_protocol::Gpu>>) {
    let mark = |good: bool| if good { "ok" } else { "MISSING" }.to_owned();
    let layers = &findings.confinement;
    let own_user = if layers.own_user { "ok" } else { "no, needs root" }.to_owned();
    printer::table(
        &["LAYER", "STATE"],
        &[
            vec!["landlock".into(), mark(layers.landlock)],
            vec!["seccomp".into(), mark(layers.seccomp)],
            vec!["own user".into(), own_user],
        ],
    );
    printer::line("");
    let attempts: Vec<Vec<String>> = findings
        .attempts
        .iter()
        .map(|attempt| {
            let result = if attempt.refused { "refused" } else { "NOT REFUSED" };
            vec![attempt.what.clone(), result.into(), attempt.answer.clone()]
        })
        .collect();
    printer::table(&["A CHILD TRIES TO", "RESULT", "ANSWER"], &attempts);
    printer::line("");
    if let Ok(gpus) = gpus {
        let rows: Vec<Vec<String>> = gpus
            .iter()
            .map(|gpu| vec![gpu.index.to_string(), gpu.class.clone(), gpu.name.clone(), gpu.driver.clone()])
            .collect();
        printer::table(&["GPU", "CLASS", "NAME", "DRIVER"], &rows);
        if gpus.first().is_some_and(|gpu| gpu.software) {
            printer::note(
                "only a software driver was found: it computes on the CPU, and a kernel that makes more than some 100,000 \
                 iterations fails there",
            );
        }
    }
}
