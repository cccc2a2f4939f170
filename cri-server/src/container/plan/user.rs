//! Who the process runs as.
//!
//! Numbers are parsed as numbers, with their range, and names as names: what looks like a number is never
//! looked up as a name, and what is not found is never root (CVE-2016-3697, CVE-2024-40635, CVE-2026-46680).

use proto::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use super::invalid::require;
use super::{ImageFacts, Invalid, User};

/// Kubernetes, runc and most programs hold an ID in a signed 32-bit number.
const ID_MAX: i64 = i32::MAX as i64;
/// Linux takes 65536 groups (NGROUPS_MAX); a group file that names more is not to be obeyed.
const GROUPS_MAX: usize = 65_536;

/// The user, and the home directory that its passwd entry gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) user: User,
    pub(super) home: String,
}

/// A user or group as somebody wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who<'a> {
    Id(u32),
    Name(&'a str),
}

/// A line of /etc/passwd.
#[derive(Debug)]
struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

pub(super) fn resolve(
    security: &LinuxContainerSecurityContext,
    image: &ImageFacts<'_>,
) -> Result<Resolved, Invalid> {
    let (field, who, group) = asked(security, image)?;
    let account = account(who, image.passwd);
    let uid = match (who, &account) {
        (Who::Id(uid), _) => uid,
        (Who::Name(_), Some(account)) => account.uid,
        (Who::Name(name), None) => return Err(unknown(field, "user", name, "passwd", image)),
    };
    let gid = match group {
        Some(Who::Id(gid)) => gid,
        Some(Who::Name(name)) => {
            group_id(name, image.group).ok_or_else(|| unknown(field, "group", name, "group", image))?
        }
        None => account.as_ref().map_or(0, |account| account.gid),
    };
    let groups = groups(security, gid, account.as_ref(), image)?;
    Ok(Resolved { user: User { uid, gid, groups }, home: home(account.as_ref(), image)? })
}

/// The field that decides, the user, and the group that goes with it when one is named.
fn asked<'a>(
    security: &'a LinuxContainerSecurityContext,
    image: &ImageFacts<'a>,
) -> Result<(&'static str, Who<'a>, Option<Who<'a>>), Invalid> {
    let group = match &security.run_as_group {
        Some(gid) => Some(Who::Id(id("run_as_group", gid.value)?)),
        None => None,
    };
    match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => {
            Err(Invalid::wrong("run_as_user", format!("run_as_username says {name} at the same time")))
        }
        (Some(uid), _) => Ok(("run_as_user", Who::Id(id("run_as_user", uid.value)?), group)),
        (None, "") if group.is_some() => {
            Err(Invalid::wrong("run_as_group", "run_as_group needs run_as_user or run_as_username"))
        }
        (None, "") => of_image(image),
        (None, name) => match who("run_as_username", name)? {
            Who::Id(_) => Err(Invalid::wrong("run_as_username", format!("{name} is a number, not a name"))),
            name => Ok(("run_as_username", name, group)),
        },
    }
}

/// `user`, `user:group`, `user:` and `:group`; each a number or a name.
fn of_image<'a>(image: &ImageFacts<'a>) -> Result<(&'static str, Who<'a>, Option<Who<'a>>), Invalid> {
    let field = "image.config.user";
    let (user, group) = image.user.split_once(':').unwrap_or((image.user, ""));
    let user = if user.is_empty() { Who::Id(0) } else { who(field, user)? };
    let group = if group.is_empty() { None } else { Some(who(field, group)?) };
    Ok((field, user, group))
}

fn who<'a>(field: &str, text: &'a str) -> Result<Who<'a>, Invalid> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let plain = !text.contains([':', '\n', '\0']);
        require(plain, field, || format!("{text:?} cannot be a name"))?;
        return Ok(Who::Name(text));
    }
    require(digits.len() == text.len(), field, || format!("{text} is not an ID from 0 to {ID_MAX}"))?;
    let number = text.parse().unwrap_or(i64::MAX);
    Ok(Who::Id(id(field, number)?))
}

fn id(field: &str, number: i64) -> Result<u32, Invalid> {
    let fits = (0..=ID_MAX).contains(&number);
    require(fits, field, || format!("{number} is not an ID from 0 to {ID_MAX}"))?;
    Ok(u32::try_from(number).expect("ID_MAX fits"))
}

fn unknown(field: &str, what: &str, name: &str, file: &str, image: &ImageFacts<'_>) -> Invalid {
    let why = image.accounts_unusable.map(|why| format!(": {why}")).unwrap_or_default();
    Invalid::wrong(
        field,
        format!("the {what} {name:?} is not in /etc/{file} of the image {}{why}", image.name),
    )
}

fn account<'a>(who: Who<'_>, passwd: Option<&'a [u8]>) -> Option<Account<'a>> {
    lines(passwd).filter_map(parse_account).find(|account| match who {
        Who::Id(uid) => account.uid == uid,
        Who::Name(name) => account.name == name.as_bytes(),
    })
}

fn lines(file: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
    file.unwrap_or_default().split(|byte| *byte == b'\n')
}

/// passwd(5): name, password, UID, GID, comment, home, shell. A line with a bad number is no line.
fn parse_account(line: &[u8]) -> Option<Account<'_>> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    let [name, _, uid, gid, rest @ ..] = fields.as_slice() else { return None };
    let home = rest.get(1).copied().unwrap_or_default();
    Some(Account { name, uid: file_id(uid)?, gid: file_id(gid)?, home })
}

fn file_id(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?;
    text.parse().ok().filter(|id| i64::from(*id) <= ID_MAX)
}

/// group(5): name, password, GID, members.
fn parse_group(line: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let mut fields = line.split(|byte| *byte == b':');
    let (name, gid) = (fields.next()?, fields.nth(1)?);
    Some((name, file_id(gid)?, fields.next().unwrap_or_default()))
}

fn group_id(name: &str, group: Option<&[u8]>) -> Option<u32> {
    let mut known = lines(group).filter_map(parse_group);
    known.find(|(known, _, _)| *known == name.as_bytes()).map(|(_, gid, _)| gid)
}

/// The primary group first, then with the policy Merge those that the image's group file puts the user in,
/// then those that the pod asks for.
fn groups(
    security: &LinuxContainerSecurityContext,
    gid: u32,
    account: Option<&Account<'_>>,
    image: &ImageFacts<'_>,
) -> Result<Vec<u32>, Invalid> {
    let number = security.supplemental_groups_policy;
    let policy = SupplementalGroupsPolicy::try_from(number)
        .map_err(|_| Invalid::wrong("supplemental_groups_policy", format!("there is no policy {number}")))?;
    let mut groups = vec![gid];
    if let (SupplementalGroupsPolicy::Merge, Some(account)) = (policy, account) {
        groups.extend(memberships(account.name, image.group));
    }
    for asked in &security.supplemental_groups {
        groups.push(id("supplemental_groups", *asked)?);
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|gid| seen.insert(*gid));
    let count = groups.len();
    require(count <= GROUPS_MAX, "supplemental_groups", || {
        format!("{count} groups are more than {GROUPS_MAX}")
    })?;
    Ok(groups)
}

fn memberships<'a>(user: &'a [u8], group: Option<&'a [u8]>) -> impl Iterator<Item = u32> + 'a {
    lines(group)
        .filter_map(parse_group)
        .filter(move |(_, _, members)| members.split(|byte| *byte == b',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
}

fn home(account: Option<&Account<'_>>, image: &ImageFacts<'_>) -> Result<String, Invalid> {
    let home = account.map_or(&b"/"[..], |account| account.home);
    let home = if home.is_empty() { b"/" } else { home };
    let text = std::str::from_utf8(home).ok().filter(|text| !text.contains('\0'));
    text.map(String::from).ok_or_else(|| {
        Invalid::wrong("image", format!("the home directory in /etc/passwd of {} is not UTF-8", image.name))
    })
}
