/*
 * What a case may ask about the leg that it runs in, for the few that are about speed: that a
 * process was served, not only that its bytes were right. All else in the tests knows nothing of
 * the library.
 */
#ifndef TESTS_SUPPORT_LEG_H
#define TESTS_SUPPORT_LEG_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * A process that has ended got at least so many bytes by a ring of its own. Asked only in legs
 * that have to use one: TEST_RING=must in the environment, and the counters in TEST_STATS/PID.
 */
void check_ring_used(pid_t pid, long bytes);

/* Whether this is the leg of that name (leg.sh). */
bool leg_is(const char *name);

/* In this leg: a process that has ended counted `name` so often at least, or at most. A counter that is not there
 * at all is a failure, too. */
void check_counted(const char *leg, pid_t pid, const char *name, long least);
void check_counted_most(const char *leg, pid_t pid, const char *name, long most);

#endif
