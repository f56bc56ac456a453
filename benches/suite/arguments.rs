//! The command line.

use std::path::PathBuf;

use crate::rows;

/// What is to be done.
pub enum Order {
    Run(Arguments),
    List,
}

/// How it is to be done.
pub struct Arguments {
    /// The rows, in the order of the list.
    pub only: Vec<String>,
    /// How often the contenders of a comparison take turns.
    pub pairs: usize,
    /// How long one measurement lasts that is bounded by time.
    pub seconds: u64,
    /// A hundredth of the amounts, to see whether a row works.
    pub quick: bool,
    /// Where the figures go.
    pub json: PathBuf,
}

/// Reads it.
pub fn read(given: impl Iterator<Item = String>) -> Result<Order, String> {
    let all = || rows::NAMES.iter().map(|&name| name.to_owned()).collect();
    let json = PathBuf::from(format!("target/bench/{}.json", jiff::Zoned::now().date()));
    let mut arguments = Arguments { only: all(), pairs: 5, seconds: 3, quick: false, json };
    // What `cargo bench` gives to every benchmark.
    let mut given = given.filter(|name| name != "--bench");
    while let Some(name) = given.next() {
        match name.as_str() {
            "--list" => return Ok(Order::List),
            "--quick" => arguments.quick = true,
            _ => set(&mut arguments, &name, &given.next().ok_or_else(|| format!("{name} wants a value"))?)?,
        }
    }
    Ok(Order::Run(arguments))
}

fn set(arguments: &mut Arguments, name: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u64>().ok().filter(|number| *number > 0).ok_or(format!("{name} {value}: a number is wanted"));
    match name {
        "--only" => arguments.only = chosen(value)?,
        "--pairs" => arguments.pairs = usize::try_from(number()?).map_err(|_| format!("{name} {value}: too many"))?,
        "--seconds" => arguments.seconds = number()?,
        "--json" => arguments.json = value.into(),
        _ => return Err(format!("{name}: known are --only, --pairs, --seconds, --json, --quick, --list")),
    }
    Ok(())
}

fn chosen(value: &str) -> Result<Vec<String>, String> {
    let named: Vec<&str> = value.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = named.iter().find(|name| !rows::NAMES.contains(name)) {
        return Err(format!("{unknown}: there is no such row; there are {}", rows::NAMES.join(", ")));
    }
    Ok(rows::NAMES.iter().filter(|name| named.contains(name)).map(|&name| name.to_owned()).collect())
}
