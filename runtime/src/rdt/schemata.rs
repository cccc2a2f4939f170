//! Lines of a `schemata` file, compared by what they mean: the kernel pads names, and writes masks its own way.

/// Whether `file` has for each domain of `line` the same value: `L3:0=f;1=3`.
pub(super) fn holds(file: &str, line: &str) -> bool {
    let Some((resource, wanted)) = line.split_once(':') else { return false };
    let Some(there) = file.lines().find_map(|line| value_of(line, resource.trim())) else { return false };
    wanted.split(';').all(|domain| match parse(resource.trim(), domain) {
        Some(wanted) => there.split(';').any(|own| parse(resource.trim(), own) == Some(wanted)),
        None => false,
    })
}

fn value_of<'a>(line: &'a str, resource: &str) -> Option<&'a str> {
    let (name, value) = line.split_once(':')?;
    (name.trim() == resource).then_some(value)
}

/// Caches have masks in hexadecimal, bandwidths numbers in decimal.
fn parse(resource: &str, domain: &str) -> Option<(u64, u64)> {
    let (id, value) = domain.trim().split_once('=')?;
    let radix = if resource.ends_with("MB") || resource.ends_with("MBA") { 10 } else { 16 };
    let value = value.trim().trim_start_matches("0x");
    Some((id.trim().parse().ok()?, u64::from_str_radix(value, radix).ok()?))
}

#[cfg(test)]
mod tests {
    use super::holds;

    #[test]
    fn lines_are_compared_by_meaning() {
        let file = "    L3:0=00f;1=7ff\n    MB:0= 20;1=100\n";
        for same in ["L3:0=f", "L3:1=7ff;0=0xf", "MB:0=20", "MB:1=100;0=20", "L3: 0 = F"] {
            assert!(holds(file, same), "{same}");
        }
        for other in ["L3:0=7", "L3:2=f", "MB:0=30", "L2:0=f", "nonsense", "L3:0=x", "L3:"] {
            assert!(!holds(file, other), "{other}");
        }
    }
}
