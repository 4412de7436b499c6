//! `gannet kernel`: the commands about kernels. `check` reads WGSL files on this machine, without a server and a GPU; the
//! others ask a server.

use clap::{Args, Subcommand};
use gannet_cli::failure::{Failure, Outcome};
use gannet_cli::kernel::KernelOfServer;
use gannet_cli::printer;
use gannet_sandbox::kernel_check::{SOURCE_BYTES_MAX, Verdict, check_source};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct KernelArgs {
    #[command(subcommand)]
    command: KernelCommand,
}

#[derive(Debug, Subcommand)]
enum KernelCommand {
    /// Check WGSL files on this machine as a server does at deploy; needs no server and no GPU
    Check(CheckArgs),
    #[command(flatten)]
    OfServer(KernelOfServer),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// WGSL files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Value of an override, as NAME=NUMBER; may be given several times
    #[arg(long = "constant", value_name = "NAME=NUMBER", value_parser = constant)]
    constants: Vec<(String, f64)>,
    /// Check for the software driver, which has no f16 and lower limits, instead of for a GPU
    #[arg(long)]
    software: bool,
    /// Print the WGSL as it will run, with the code that ends loops that run too long
    #[arg(long, conflicts_with = "json")]
    print: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn constant(text: &str) -> Result<(String, f64), String> {
    let (name, number) = text.split_once('=').ok_or("it must be NAME=NUMBER")?;
    let number = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Ok((name.to_owned(), number))
}

pub fn run(arguments: &KernelArgs) -> Outcome {
    match &arguments.command {
        KernelCommand::Check(arguments) => check_files(arguments),
        KernelCommand::OfServer(command) => command.run(),
    }
}

fn check_files(arguments: &CheckArgs) -> Outcome {
    let mut verdicts = Vec::new();
    for path in &arguments.files {
        let size_max = SOURCE_BYTES_MAX as u64;
        let size = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
        if size > size_max {
            return Err(Failure::failed(format!("{} has {size} bytes; the limit is {size_max}", path.display())));
        }
        let wgsl = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        let of_file = check_source(&wgsl, &arguments.constants, arguments.software);
        verdicts.extend(of_file.into_iter().map(|verdict| (path.display().to_string(), verdict)));
    }
    if arguments.json {
        printer::json(&json!({ "kernels": verdicts.iter().map(as_json).collect::<Vec<_>>() }));
    } else {
        verdicts.iter().for_each(|verdict| print(verdict, arguments.print));
    }
    let refused = verdicts.iter().filter(|(_, verdict)| verdict.result.is_err()).count();
    if refused == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!("{refused} of {} kernels would be refused", verdicts.len())))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{} cannot be read", path.display())).because(error)
}

fn print((file, verdict): &(String, Verdict), hardened: bool) {
    let name = verdict.entry.as_deref().map_or(String::new(), |entry| format!("kernel {entry}: "));
    match &verdict.result {
        Err(refusal) => {
            let place = refusal.place.map_or(String::new(), |(line, column)| format!(":{line}:{column}"));
            printer::line(&format!("{file}{place}: {name}{}", refusal.message));
            if let Some(excerpt) = &refusal.excerpt {
                printer::line(excerpt);
            }
        }
        Ok(kernel) if hardened => {
            printer::line(kernel.hardened.as_deref().unwrap_or("// it cannot be printed").trim_end())
        }
        Ok(kernel) => {
            let [x, y, z] = kernel.workgroup_size;
            let lines: Vec<String> = kernel.counted_lines.iter().map(u32::to_string).collect();
            let loops = match lines.as_slice() {
                [] => "no loop needs a budget".to_owned(),
                lines => format!("loops with a budget on lines {}", lines.join(", ")),
            };
            let bindings = kernel.bindings.len();
            printer::line(&format!("{file}: {name}valid; workgroups of {x} × {y} × {z}, {bindings} bindings, {loops}"));
        }
    }
}

fn as_json((file, verdict): &(String, Verdict)) -> serde_json::Value {
    match &verdict.result {
        Err(refusal) => json!({
            "file": file,
            "entry": verdict.entry,
            "valid": false,
            "error": refusal.message,
            "line": refusal.place.map(|(line, _)| line),
            "column": refusal.place.map(|(_, column)| column),
        }),
        Ok(kernel) => json!({
            "file": file,
            "entry": verdict.entry,
            "valid": true,
            "workgroup_size": kernel.workgroup_size,
            "bindings": kernel.bindings,
            "counted_lines": kernel.counted_lines,
        }),
    }
}
