/* Holds a port until a byte comes on stdin, and tells when it let go. It is C because it is killed too: the kernel takes down the memory of
 * who is killed before it closes the sockets, so that a larger program would hold its port for longer.
 *
 *     holder PORT
 *
 * On stdout, 8 bytes each: the inode of its socket, and later when it closed it (CLOCK_MONOTONIC, nanoseconds).
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	struct timespec t;
	struct stat its;
	int64_t number;
	char byte;

	if (argc != 2 || fd < 0)
		return 1;
	at.sin_port = htons(atoi(argv[1]));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 1) || fstat(fd, &its))
		return 1;
	number = its.st_ino;
	(void)!write(1, &number, 8);
	if (read(0, &byte, 1) != 1)
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &t);
	close(fd);
	number = t.tv_sec * 1000000000LL + t.tv_nsec;
	(void)!write(1, &number, 8);
	for (;;)
		pause();
}
