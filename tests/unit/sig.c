#include "unit.h"

#include <errno.h>
#include <pthread.h>

#include "base.h"
#include "ring.h"
#include "sig.h"

static struct pbs_thread *self;
static unsigned interrupts; /* sleeps that were ended */

static int order[16];
static union sigval values[16];
static sigset_t masks[16];
static volatile unsigned ran;

static void no_ring(struct pbs_thread *t)
{
    (void)t;
}

static bool interrupt(struct pbs_thread *t)
{
    assert_ptr_equal(t, self);
    interrupts++;
    return true;
}

static int setup(void **state)
{
    (void)state;
    pbs_sig_init(interrupt);
    pbs_thread_init(no_ring);
    self = pbs_thread_get();
    return self ? 0 : -1;
}

static int reset(void **state)
{
    (void)state;
    ran = interrupts = 0;
    self->wait_signal = PBS_SIG_NONE;
    return 0;
}

static void handler(int sig)
{
    order[ran] = sig;
    pthread_sigmask(SIG_SETMASK, NULL, &masks[ran]);
    ran++;
}

static void handler_info(int sig, siginfo_t *info, void *context)
{
    assert_non_null(context);
    assert_int_equal(info->si_signo, sig);
    values[ran] = info->si_value;
    handler(sig);
}

static void install(int sig, int flags)
{
    struct sigaction sa = {.sa_flags = flags | SA_SIGINFO, .sa_sigaction = handler_info};

    assert_int_equal(pbs_sig_action(sig, &sa, NULL), 0);
}

static void queue(int sig, int value)
{
    assert_int_equal(pthread_sigqueue(pthread_self(), sig, (union sigval){.sival_int = value}), 0);
}

static void test_action_shows_the_programs_own(void **state)
{
    struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART}, old, kernel;

    (void)state;
    sigemptyset(&sa.sa_mask);
    sigaddset(&sa.sa_mask, SIGUSR2);
    assert_int_equal(pbs_sig_action(SIGUSR1, &sa, &old), 0);
    assert_true(old.sa_handler == SIG_DFL);
    assert_int_equal(sigaction(SIGUSR1, NULL, &kernel), 0);
    assert_true(kernel.sa_handler != handler);
    assert_int_equal(pbs_sig_action(SIGUSR1, NULL, &old), 0);
    assert_true(old.sa_handler == handler);
    assert_int_equal(old.sa_flags & ~0x04000000, SA_RESTART);
    assert_int_equal(sigismember(&old.sa_mask, SIGUSR2), 1);
    sa.sa_handler = SIG_IGN;
    assert_int_equal(pbs_sig_action(SIGUSR1, &sa, &old), 0);
    assert_true(old.sa_handler == handler);
    assert_int_equal(sigaction(SIGUSR1, NULL, &kernel), 0);
    assert_true(kernel.sa_handler == SIG_IGN);
    errno = 0;
    sa.sa_handler = handler;
    assert_int_equal(pbs_sig_action(SIGKILL, &sa, NULL), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(pbs_sig_action(65, &sa, NULL), -1);
    assert_int_equal(pbs_sig_action(0, &sa, NULL), -1);
}

static void test_signal_is_put_off_until_the_section_is_left(void **state)
{
    sigset_t before, after;

    (void)state;
    install(SIGUSR1, 0);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    pbs_crit_enter(self);
    pbs_crit_enter(self);
    queue(SIGUSR1, 42);
    assert_int_equal(ran, 0);
    pbs_crit_leave(self);
    assert_int_equal(ran, 0);
    errno = EDOM;
    pbs_crit_leave(self);
    assert_int_equal(ran, 1);
    assert_int_equal(values[0].sival_int, 42);
    assert_int_equal(errno, EDOM);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    assert_memory_equal(&before, &after, 8);
    assert_int_equal(sigismember(&masks[0], SIGUSR1), 1);
    assert_int_equal(sigismember(&masks[0], SIGUSR2), 0);
}

static void test_realtime_signals_keep_their_order(void **state)
{
    int low = SIGRTMIN;

    (void)state;
    install(low, 0);
    /* All pending at once, as the kernel has it; then with the first one put off. */
    for (int section = 0; section < 2; section++) {
        sigset_t all, old;

        ran = 0;
        if (section)
            pbs_crit_enter(self);
        sigfillset(&all);
        if (!section)
            pthread_sigmask(SIG_SETMASK, &all, &old);
        for (int i = 1; i <= 3; i++)
            queue(low, i);
        if (section)
            pbs_crit_leave(self);
        else
            pthread_sigmask(SIG_SETMASK, &old, NULL);
        assert_int_equal(ran, 3);
        for (int i = 0; i < 3; i++)
            assert_int_equal(values[i].sival_int, i + 1);
    }
}

static void test_one_shot_is_put_off_and_runs_once(void **state)
{
    struct sigaction old;

    (void)state;
    install(SIGUSR1, (int)SA_RESETHAND);
    pbs_crit_enter(self);
    queue(SIGUSR1, 1);
    pbs_crit_leave(self);
    assert_int_equal(ran, 1);
    assert_int_equal(pbs_sig_action(SIGUSR1, NULL, &old), 0);
    assert_true(old.sa_handler == SIG_DFL);
}

static void test_handler_ends_the_wait_and_the_first_one_decides(void **state)
{
    (void)state;
    install(SIGUSR1, SA_RESTART);
    install(SIGUSR2, 0);
    queue(SIGUSR1, 1);
    assert_int_equal(self->wait_signal, PBS_SIG_RESTART);
    queue(SIGUSR2, 2);
    assert_int_equal(self->wait_signal, PBS_SIG_RESTART);
    assert_int_equal(interrupts, 2);
    self->wait_signal = PBS_SIG_NONE;
    atomic_store(&self->polling, true);
    queue(SIGUSR2, 3);
    assert_int_equal(self->wait_signal, PBS_SIG_INTERRUPT);
    assert_false(self->polling);
}

static uint64_t call_inside;
static sigjmp_buf out;

static void note_call(int sig)
{
    (void)sig;
    call_inside = self->call;
}

static void jump(int sig)
{
    siglongjmp(out, sig);
}

static void test_handler_is_not_in_the_call_that_it_interrupts(void **state)
{
    struct sigaction sa = {.sa_handler = note_call};
    uint64_t before = self->call;

    (void)state;
    assert_int_equal(pbs_sig_action(SIGUSR1, &sa, NULL), 0);
    queue(SIGUSR1, 1);
    assert_true(call_inside != before);
    assert_true(self->call == before); /* which may begin again */
    sa.sa_handler = jump;
    assert_int_equal(pbs_sig_action(SIGUSR1, &sa, NULL), 0);
    if (!sigsetjmp(out, 1))
        queue(SIGUSR1, 1);
    assert_true(self->call != before);
}

static void test_signal_flags_are_bsds_or_system_vs(void **state)
{
    struct sigaction old;

    (void)state;
    assert_true(pbs_sig_signal(SIGUSR1, handler, false) != SIG_ERR);
    pbs_sig_action(SIGUSR1, NULL, &old);
    assert_true(old.sa_flags & SA_RESTART);
    assert_int_equal(sigismember(&old.sa_mask, SIGUSR1), 1);
    assert_int_equal(pbs_sig_interrupt(SIGUSR1, 1), 0);
    pbs_sig_action(SIGUSR1, NULL, &old);
    assert_false(old.sa_flags & SA_RESTART);
    assert_true(pbs_sig_signal(SIGUSR1, handler, false) == handler);
    pbs_sig_action(SIGUSR1, NULL, &old);
    assert_false(old.sa_flags & SA_RESTART); /* siginterrupt() counts for later ones, too */
    assert_int_equal(pbs_sig_interrupt(SIGUSR1, 0), 0);
    assert_true(pbs_sig_signal(SIGUSR1, SIG_DFL, true) == handler);
    errno = 0;
    assert_true(pbs_sig_signal(SIGUSR1, SIG_ERR, false) == SIG_ERR);
    assert_int_equal(errno, EINVAL);
    assert_true(pbs_sig_signal(NSIG, handler, false) == SIG_ERR);
}

static void test_sigset_holds_and_lets_go(void **state)
{
    sigset_t now;

    (void)state;
    assert_true(pbs_sig_set(SIGUSR2, handler) != SIG_ERR);
    assert_true(pbs_sig_set(SIGUSR2, SIG_HOLD) == handler);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    assert_int_equal(sigismember(&now, SIGUSR2), 1);
    assert_true(pbs_sig_set(SIGUSR2, SIG_HOLD) == SIG_HOLD);
    queue(SIGUSR2, 1);
    assert_int_equal(ran, 0);
    assert_true(pbs_sig_set(SIGUSR2, handler) == SIG_HOLD);
    assert_int_equal(ran, 1);
    assert_true(pbs_sig_set(SIGUSR2, SIG_DFL) == handler);
}

static void *without_a_block(void *arg)
{
    (void)arg;
    assert_null(pbs_self);
    queue(SIGUSR1, 9);
    return pbs_self;
}

static void test_thread_without_a_block_runs_its_handler(void **state)
{
    pthread_t t;
    void *made;

    (void)state;
    install(SIGUSR1, 0);
    assert_int_equal(pthread_create(&t, NULL, without_a_block, NULL), 0);
    assert_int_equal(pthread_join(t, &made), 0);
    assert_int_equal(ran, 1);
    assert_int_equal(interrupts, 0);
    assert_null(made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_action_shows_the_programs_own, reset),
        cmocka_unit_test_setup(test_signal_is_put_off_until_the_section_is_left, reset),
        cmocka_unit_test_setup(test_realtime_signals_keep_their_order, reset),
        cmocka_unit_test_setup(test_one_shot_is_put_off_and_runs_once, reset),
        cmocka_unit_test_setup(test_handler_ends_the_wait_and_the_first_one_decides, reset),
        cmocka_unit_test_setup(test_handler_is_not_in_the_call_that_it_interrupts, reset),
        cmocka_unit_test_setup(test_signal_flags_are_bsds_or_system_vs, reset),
        cmocka_unit_test_setup(test_sigset_holds_and_lets_go, reset),
        cmocka_unit_test_setup(test_thread_without_a_block_runs_its_handler, reset),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
