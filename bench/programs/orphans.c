/* An app that creates orphans and reports when the last of them was reaped. It is C because it creates so many processes: vfork() takes a
 * fraction of the time of fork(), and cannot be used from Rust.
 *
 *     orphans COUNT
 *
 * It writes "u" when it is running. After a byte on stdin it creates the orphans, which exit immediately, and writes "m". After another
 * byte it polls until none is left, and writes the time: CLOCK_MONOTONIC, nanoseconds, 8 bytes.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void told(void)
{
	char byte;

	if (read(0, &byte, 1) != 1)
		_exit(1);
}

int main(int argc, char **argv)
{
	int count = argc == 2 ? atoi(argv[1]) : 0;
	/* Volatile: a child writes here, in this program's own memory, before the vfork() that created it returns. */
	volatile pid_t *pids = calloc(count, sizeof *pids);
	int64_t gone;

	if (count <= 0 || !pids)
		return 1;
	(void)!write(1, "u", 1);
	told();
	for (int i = 0; i < count; i++) {
		pid_t pid = vfork();

		if (pid == 0) {
			pids[i] = vfork();
			_exit(pids[i] < 0);
		}
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			return 1;
	}
	(void)!write(1, "m", 1);
	told();
	for (int i = 0; i < count; i++)
		while (kill(pids[i], 0) == 0)
			sched_yield();
	gone = now();
	(void)!write(1, &gone, 8);
	for (;;)
		pause();
}
