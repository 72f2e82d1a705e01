/*
 * uthash on our own memory: no hook may call malloc. A table that cannot be allocated leaves the
 * element out (HASH_NONFATAL_OOM, set by the includer); each user says what that means.
 */
#ifndef PBS_UTHASH_MEM_H
#define PBS_UTHASH_MEM_H

#include "mem.h"

#define uthash_malloc(size) pbs_mem_get(size)
#define uthash_free(ptr, size) pbs_mem_put(ptr, size)
#define HASH_INITIAL_NUM_BUCKETS 4U
#define HASH_INITIAL_NUM_BUCKETS_LOG2 2U
#include <uthash.h>

#endif
