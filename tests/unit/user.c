#include "unit.h"

#include <sys/mman.h>

#include "user.h"

#define PAGE 4096UL

static struct pbs_thread self;

static int fresh(void **state)
{
    (void)state;
    pbs_user_changed();
    return 0;
}

static char *pages(size_t n, int prot)
{
    char *p = mmap(NULL, n * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(p, MAP_FAILED);
    return p;
}

static void unmap(char *p, size_t n)
{
    assert_int_equal(munmap(p, n * PAGE), 0);
    pbs_user_changed();
}

static void test_writable_plain_memory_yes(void **state)
{
    static char in_bss[3 * PAGE];
    char on_stack[100];
    char *p = pages(2, PROT_READ | PROT_WRITE), *heap = malloc(100);

    (void)state;
    assert_non_null(heap);
    assert_true(pbs_user_writable(&self, p, 2 * PAGE));
    assert_true(pbs_user_writable(&self, p + 2 * PAGE - 1, 1));
    assert_true(pbs_user_writable(&self, in_bss + 1, 2 * PAGE + 1));
    assert_true(pbs_user_writable(&self, on_stack, sizeof(on_stack)));
    assert_true(pbs_user_writable(&self, heap, 100));
    free(heap);
    unmap(p, 2);
}

/* The kernel's own copy grows a stack, MADV_POPULATE_WRITE does not. */
static __attribute__((noinline)) bool deep(void)
{
    char large[1 << 20];

    return pbs_user_writable(&self, large, 1) && pbs_user_writable(&self, large, sizeof(large));
}

static void test_writable_stack_not_grown_yet_yes(void **state)
{
    (void)state;
    assert_true(deep());
}

static void test_writable_bad_pointers_no(void **state)
{
    char *ro = pages(1, PROT_READ), *none = pages(1, PROT_NONE), *gone = pages(1, PROT_READ);

    (void)state;
    unmap(gone, 1);
    assert_false(pbs_user_writable(&self, NULL, 1));
    assert_false(pbs_user_writable(&self, (void *)1, 1));
    assert_false(pbs_user_writable(&self, ro, 1));
    assert_false(pbs_user_writable(&self, none, 1));
    assert_false(pbs_user_writable(&self, gone, 1));
    assert_false(pbs_user_writable(&self, (void *)-1L, 1));
    assert_false(pbs_user_writable(&self, (void *)(UINT64_C(1) << 60), 1));
    unmap(ro, 1);
    unmap(none, 1);
}

/* A range that wraps has no pages: a loop over them would find all of them proved. */
static void test_pointers_near_the_top_range_wraps_no(void **state)
{
    static const long at[] = {-1, -2, -8, -56, -4096, -4097};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(at); i++) {
        assert_false(pbs_user_readable(&self, (void *)at[i], (size_t)-at[i] + 1));
        assert_false(pbs_user_writable(&self, (void *)at[i], (size_t)-at[i] + 1));
        assert_false(pbs_user_rewritable(&self, (void *)at[i], (size_t)-at[i] + 1));
        assert_false(pbs_user_readable(&self, (void *)at[i], 8192));
    }
}

static void test_writable_range_that_ends_in_bad_page_no_and_not_remembered(void **state)
{
    char *p = pages(3, PROT_READ | PROT_WRITE);

    (void)state;
    assert_int_equal(mprotect(p + 2 * PAGE, PAGE, PROT_READ), 0);
    assert_false(pbs_user_writable(&self, p, 2 * PAGE + 1));
    assert_false(pbs_user_writable(&self, p + 2 * PAGE, 1));
    assert_true(pbs_user_writable(&self, p, 2 * PAGE));
    assert_false(pbs_user_writable(&self, p, 2 * PAGE + 1));
    unmap(p, 3);
}

/* Pages of a file mapping behind the file's end: SIGBUS for a store, EFAULT for the kernel. */
static void test_writable_past_the_end_of_a_file_no(void **state)
{
    int fd = memfd_create("short", MFD_CLOEXEC);
    char *p;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 10), 0);
    p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    assert_true(pbs_user_writable(&self, p, PAGE));
    assert_false(pbs_user_writable(&self, p + PAGE, 1));
    assert_false(pbs_user_writable(&self, p + PAGE - 1, 2));
    unmap(p, 2);
    close(fd);
}

static void test_readable_by_protection(void **state)
{
    char *ro = pages(1, PROT_READ), *none = pages(1, PROT_NONE);

    (void)state;
    assert_true(pbs_user_readable(&self, ro, PAGE));
    assert_false(pbs_user_writable(&self, ro, 1)); /* proved for reading is not for writing */
    assert_false(pbs_user_readable(&self, none, 1));
    assert_false(pbs_user_readable(&self, NULL, 8));
    unmap(ro, 1);
    unmap(none, 1);
}

static void test_rewritable_no_byte_changes(void **state)
{
    char *p = pages(2, PROT_READ | PROT_WRITE), *ro = pages(1, PROT_READ);

    (void)state;
    memset(p, 'x', 2 * PAGE);
    assert_true(pbs_user_rewritable(&self, p + 3, 2 * PAGE - 3));
    for (size_t i = 0; i < 2 * PAGE; i++)
        assert_int_equal(p[i], 'x');
    assert_false(pbs_user_rewritable(&self, ro, 1));
    unmap(p, 2);
    unmap(ro, 1);
}

static void test_proved_once_trusted_until_memory_changes(void **state)
{
    char *p = pages(1, PROT_READ | PROT_WRITE);

    (void)state;
    assert_false(pbs_user_proved(&self, self.proved_write, p, 1));
    assert_true(pbs_user_writable(&self, p, 1));
    assert_true(pbs_user_proved(&self, self.proved_write, p, PAGE));
    assert_int_equal(mprotect(p, PAGE, PROT_READ), 0);
    pbs_user_changed();
    assert_false(pbs_user_proved(&self, self.proved_write, p, 1));
    assert_false(pbs_user_writable(&self, p, 1));
    assert_int_equal(mprotect(p, PAGE, PROT_READ | PROT_WRITE), 0);
    assert_true(pbs_user_writable(&self, p, 1));
    unmap(p, 1);
}

#define RUN (PBS_USER_RUN / PAGE)

/* Three pages for which the cache has two places: the latest pushes the earliest out, none stands for
 * another. */
static void test_proved_pages_that_share_a_place_kept_apart(void **state)
{
    const size_t apart = PBS_PROVED / 2 * PBS_USER_RUN;
    char *p = pages(PBS_PROVED * RUN + 1, PROT_READ | PROT_WRITE), *far = p + apart,
         *farther = far + apart;

    (void)state;
    assert_true(pbs_user_writable(&self, p, 1));
    assert_int_equal(mprotect(far, PAGE, PROT_READ), 0);
    assert_false(pbs_user_writable(&self, far, 1));
    assert_int_equal(mprotect(far, PAGE, PROT_READ | PROT_WRITE), 0);
    assert_true(pbs_user_writable(&self, far, 1));
    assert_true(pbs_user_proved(&self, self.proved_write, p, 1));
    assert_false(pbs_user_proved(&self, self.proved_write, farther, 1));
    assert_true(pbs_user_writable(&self, farther, 1));
    assert_true(pbs_user_proved(&self, self.proved_write, far, 1));
    assert_false(pbs_user_proved(&self, self.proved_write, p, 1));
    assert_true(pbs_user_writable(&self, p, 1));
    unmap(p, PBS_PROVED * RUN + 1);
}

/* What is proved is known page by page, also where a range crosses from one run into the next. */
static void test_proved_pages_of_a_run_each_for_itself(void **state)
{
    char *mem = pages(4 * RUN, PROT_READ | PROT_WRITE);
    char *p = (char *)(((uintptr_t)mem + PBS_USER_RUN - 1) & ~(uintptr_t)(PBS_USER_RUN - 1));

    (void)state;
    for (size_t first = 0; first < 2 * RUN; first++) {
        for (size_t n = 1; first + n <= 2 * RUN; n++) {
            pbs_user_changed();
            assert_true(pbs_user_writable(&self, p + first * PAGE + 1, n * PAGE - 1));
            for (size_t i = 0; i < 3 * RUN; i++)
                assert_int_equal(pbs_user_proved(&self, self.proved_write, p + i * PAGE, PAGE),
                                 i >= first && i < first + n);
            assert_true(pbs_user_proved(&self, self.proved_write, p + first * PAGE, n * PAGE));
            assert_false(pbs_user_proved(&self, self.proved_write, p + first * PAGE, n * PAGE + 1));
        }
    }
    unmap(mem, 4 * RUN);
}

static void test_writable_more_pages_than_the_cache_has_yes(void **state)
{
    size_t n = 3 * PBS_PROVED * RUN;
    char *p = pages(n, PROT_READ | PROT_WRITE);

    (void)state;
    assert_true(pbs_user_writable(&self, p, n * PAGE));
    assert_true(pbs_user_writable(&self, p, n * PAGE));
    assert_int_equal(mprotect(p, PAGE, PROT_READ), 0);
    pbs_user_changed();
    assert_false(pbs_user_writable(&self, p, n * PAGE));
    unmap(p, n);
}

static void test_absurd_addresses_named(void **state)
{
    (void)state;
    assert_false(pbs_user_absurd(NULL, 0));
    assert_false(pbs_user_absurd((void *)0x1000, 0x7ffff000));
    assert_true(pbs_user_absurd((void *)1, SIZE_MAX));
    assert_true(pbs_user_absurd(NULL, SIZE_MAX));
    assert_true(pbs_user_absurd((void *)-1L, 0));
    assert_true(pbs_user_absurd((void *)(UINT64_C(1) << 47), 1));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_writable_plain_memory_yes, fresh),
        cmocka_unit_test_setup(test_writable_stack_not_grown_yet_yes, fresh),
        cmocka_unit_test_setup(test_writable_bad_pointers_no, fresh),
        cmocka_unit_test_setup(test_pointers_near_the_top_range_wraps_no, fresh),
        cmocka_unit_test_setup(test_writable_range_that_ends_in_bad_page_no_and_not_remembered,
                               fresh),
        cmocka_unit_test_setup(test_writable_past_the_end_of_a_file_no, fresh),
        cmocka_unit_test_setup(test_readable_by_protection, fresh),
        cmocka_unit_test_setup(test_rewritable_no_byte_changes, fresh),
        cmocka_unit_test_setup(test_proved_once_trusted_until_memory_changes, fresh),
        cmocka_unit_test_setup(test_proved_pages_that_share_a_place_kept_apart, fresh),
        cmocka_unit_test_setup(test_proved_pages_of_a_run_each_for_itself, fresh),
        cmocka_unit_test_setup(test_writable_more_pages_than_the_cache_has_yes, fresh),
        cmocka_unit_test_setup(test_absurd_addresses_named, fresh),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
