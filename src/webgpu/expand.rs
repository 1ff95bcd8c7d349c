//! The small text language of shaders/: the same code expands a shader at build time, to validate it, and at run
//! time, for the variant an adapter needs. No dependency, so that the build script can include this file.
//!
//! | line | meaning |
//! |---|---|
//! | `#if A` ... `#else` ... `#end` | kept where flag `A` is set (`!A`: not set; `A\|B`: either) |
//! | `#for i 0 32` ... `#end` | the lines once for each `i` from 0 to 31, `$i` replaced by the number, `$(i+1)` by the next |
//! | `#include name` | shaders/shared/name.wgsl, once; resolved at build time only |

/// Where a line of expanded text came from.
pub(crate) type Origin = usize;

/// Expands `lines` under `flags`; each line of the result names the input line it came from.
///
/// # Errors
///
/// A sentence that names the line, for a directive without its `#end` or one that cannot be read.
pub(crate) fn expand(lines: &[&str], flags: &[&str]) -> Result<Vec<(String, Origin)>, (Origin, String)> {
    let mut out = Vec::new();
    let end = block(lines, 0, flags, &mut Vec::new(), true, &mut out)?;
    match lines.get(end) {
        None => Ok(out),
        Some(line) => Err((end, format!("`{}` without its beginning", line.trim()))),
    }
}

/// Expands a whole text to text.
pub(crate) fn expand_text(text: &str, flags: &[&str]) -> Result<String, String> {
    let lines: Vec<&str> = text.lines().collect();
    let lines = expand(&lines, flags).map_err(|(at, message)| format!("line {}: {message}", at + 1))?;
    let mut out = String::with_capacity(2 * text.len());
    for (line, _) in lines {
        out.push_str(&line);
        out.push('\n');
    }
    Ok(out)
}

fn block(
    lines: &[&str],
    mut at: usize,
    flags: &[&str],
    names: &mut Vec<(String, u32)>,
    live: bool,
    out: &mut Vec<(String, Origin)>,
) -> Result<usize, (Origin, String)> {
    while let Some(line) = lines.get(at) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["#if", condition] => {
                let met = condition.split('|').any(|c| match c.strip_prefix('!') {
                    Some(flag) => !flags.contains(&flag),
                    None => flags.contains(&c),
                });
                let opened = at;
                at = block(lines, at + 1, flags, names, live && met, out)?;
                if lines.get(at).is_some_and(|l| l.trim() == "#else") {
                    at = block(lines, at + 1, flags, names, live && !met, out)?;
                }
                at = closed(lines, at, opened)?;
            }
            ["#for", name, from, to] => {
                let bound = |text: &str| match names.iter().find(|(n, _)| Some(n.as_str()) == text.strip_prefix('$')) {
                    Some((_, value)) => Ok(*value),
                    None => text.parse().map_err(|_| (at, format!("`{text}` is no bound of a #for"))),
                };
                let (from, to): (u32, u32) = (bound(from)?, bound(to)?);
                let opened = at;
                let mut after = block(lines, at + 1, flags, names, false, out)?;
                for i in if live { from..to } else { 0..0 } {
                    names.push(((*name).to_owned(), i));
                    after = block(lines, opened + 1, flags, names, true, out)?;
                    names.pop();
                }
                at = closed(lines, after, opened)?;
            }
            ["#end" | "#else"] => return Ok(at),
            [directive, ..] if directive.starts_with('#') => {
                return Err((at, format!("`{}` is no directive", line.trim())));
            }
            _ => {
                if live {
                    let mut text = (*line).to_owned();
                    // The longest name first, so that $i does not eat the beginning of $item.
                    let mut sorted: Vec<&(String, u32)> = names.iter().collect();
                    sorted.sort_by_key(|(n, _)| std::cmp::Reverse(n.len()));
                    for (name, value) in sorted {
                        text = text.replace(&format!("$({name}+1)"), &(value + 1).to_string());
                        text = text.replace(&format!("${name}"), &value.to_string());
                    }
                    out.push((text, at));
                }
                at += 1;
            }
        }
    }
    Ok(at)
}

fn closed(lines: &[&str], at: usize, opened: usize) -> Result<usize, (Origin, String)> {
    match lines.get(at) {
        Some(line) if line.trim() == "#end" => Ok(at + 1),
        _ => Err((opened, "no #end follows".to_owned())),
    }
}
