# Prints syscalls.rs from the constants of the linux-raw-sys crate, which come from the kernel's headers:
#   cd ~/.cargo/registry/src/*/linux-raw-sys-0.12.1/src
#   awk -f $BERTH/runtime/src/seccomp/tables.awk {x86_64,x86,x32,aarch64,arm}/general.rs | rustfmt
# Numbers are facts of the kernel's ABI and never change; a new kernel only adds lines.
BEGIN {
    split("x86_64 x86 x32 aarch64 arm", column, " ")
    for (i in column) index_of[column[i]] = i
    # Newer than the crate's headers (6.17).
    number["uprobe", index_of["x86_64"]] = 336; names["uprobe"] = 1
}
FNR == 1 { split(FILENAME, part, "/"); arch = index_of[part[length(part) - 1]] }
match($0, /^pub const __NR_[a-z0-9_]+: u32 = [0-9]+;/) {
    name = $3; sub(/^__NR_/, "", name); sub(/:$/, "", name)
    value = $6; sub(/;$/, "", value)
    if (name == "syscalls" || name == "arch_specific_syscall") next
    if (arch == index_of["x32"]) value -= 1073741824
    names[name] = 1; number[name, arch] = value
}
END {
    print "//! Which number each syscall bears on each architecture; written by `tables.awk`, which says how."
    print ""
    print "/// Stands where an architecture has no such syscall."
    print "pub(super) const NONE: u16 = u16::MAX;"
    print ""
    print "/// Sorted by name. The columns are those of `Arch`: x86_64, x86, x32 (without its ABI bit), aarch64, arm."
    print "#[rustfmt::skip]"
    count = 0
    for (name in names) sorted[++count] = name
    for (i = 2; i <= count; i++) {
        name = sorted[i]
        for (j = i - 1; j >= 1 && sorted[j] > name; j--) sorted[j + 1] = sorted[j]
        sorted[j + 1] = name
    }
    printf "pub(super) static SYSCALLS: [(&str, [u16; 5]); %d] = [\n", count
    for (i = 1; i <= count; i++) {
        printf "    (\"%s\", [", sorted[i]
        for (arch = 1; arch <= 5; arch++) {
            here = ((sorted[i], arch) in number) ? number[sorted[i], arch] : "NONE"
            printf "%s%s", here, arch < 5 ? ", " : "]),\n"
        }
    }
    print "];"
}
