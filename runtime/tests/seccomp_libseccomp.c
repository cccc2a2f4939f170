/* Compiles the profile on stdin with libseccomp, following runc's use of it, and writes the BPF to stdout.
 *
 *   default ACTION            first line; ACTION is a SECCOMP_RET_* value
 *   arch NAME
 *   rule ACTION SYSCALL [INDEX OP A B]...
 *
 * With the argument "unknown", writes the names among its stdin's lines that libseccomp does not know.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(-rc));
		exit(1);
	}
}

static void unknown(void)
{
	char name[256];

	while (scanf("%255s", name) == 1)
		if (seccomp_syscall_resolve_name(name) == __NR_SCMP_ERROR)
			puts(name);
}

static void add_rule(scmp_filter_ctx ctx, uint32_t fallback, const char *rest)
{
	struct scmp_arg_cmp tests[64];
	unsigned int count = 0, repeated = 0, seen[6] = { 0 }, index, op;
	unsigned long long a, b;
	uint32_t action;
	char name[256];
	int used, number;

	if (sscanf(rest, "%u %255s%n", &action, name, &used) != 2)
		exit(2);
	while (rest += used, sscanf(rest, "%u %u %llu %llu%n", &index, &op, &a, &b, &used) == 4 && count < 64) {
		repeated |= seen[index]++;
		tests[count++] = (struct scmp_arg_cmp){ index, op, a, b };
	}
	number = seccomp_syscall_resolve_name(name);
	if (number == __NR_SCMP_ERROR || action == fallback)
		return;
	if (!repeated) {
		check(seccomp_rule_add_array(ctx, action, number, count, tests), name);
		return;
	}
	for (unsigned int i = 0; i < count; i++)
		check(seccomp_rule_add_array(ctx, action, number, 1, &tests[i]), name);
}

int main(int argc, char **argv)
{
	static char line[65536];
	scmp_filter_ctx ctx;
	uint32_t fallback;

	if (argc > 1) {
		unknown();
		return 0;
	}
	if (!fgets(line, sizeof(line), stdin) || sscanf(line, "default %u", &fallback) != 1)
		return 2;
	ctx = seccomp_init(fallback);
	if (!ctx)
		return 2;
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (strncmp(line, "arch ", 5) == 0) {
			int rc = seccomp_arch_add(ctx, seccomp_arch_resolve_name(line + 5));
			if (rc != -EEXIST)
				check(rc, line);
		} else if (strncmp(line, "rule ", 5) == 0) {
			add_rule(ctx, fallback, line + 5);
		}
	}
	check(seccomp_export_bpf(ctx, STDOUT_FILENO), "export");
	return 0;
}
