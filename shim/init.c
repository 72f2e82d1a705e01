/* Start and end of the library in a process. */
#include <stdlib.h>

#include "conf.h"
#include "handover.h"
#include "life.h"
#include "proc.h"
#include "real.h"
#include "sig.h"

/* A failure of any part leaves the table empty: every call is the plain one. */
__attribute__((constructor)) static void start(void)
{
    pbs_real_bind();
    pbs_conf_init();
    pbs_sig_init(pbs_ring_interrupt);
    pbs_thread_init(pbs_ring_end);
    pbs_ring_arrived = pbs_items_arrived;
    pbs_ring_unarmed = pbs_items_unmask;
    if (!pbs_conf.enabled || !pbs_fdtab_init()) {
        pbs_handover_receive(false);
        return;
    }
    pbs_proc_init();
    pbs_handover_receive(true);
    at_quick_exit(pbs_proc_end);
}

static void stop_last(int status, void *none)
{
    (void)status;
    (void)none;
    pbs_proc_end();
}

/* Other libraries' destructors may come behind this one, and still speak: what is registered by one of
 * them, for no library, exit() runs when it is through with all. */
__attribute__((destructor)) static void stop(void)
{
    if (on_exit(stop_last, NULL) != 0)
        pbs_proc_end();
}
