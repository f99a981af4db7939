/*
 * probe.h - what a device or image holds already, and who has it
 */
#ifndef ARBOR_TOOLS_PROBE_H
#define ARBOR_TOOLS_PROBE_H

#define PROBE_TEXT 128u

/*
 * Looks for any signature that libblkid knows, and for a superblock of ours, whole or damaged. text: such as "an ext4
 * filesystem", "a gpt partition table"; empty if there is none. 0 or negative errno: it could not be looked at.
 */
int probe_signature(const char *path, char text[PROBE_TEXT]);

/* Takes all these signatures away, backups at the end of the device included. Ours are mkfs's business. */
int probe_wipe(const char *path);

/* The loop device that has this file for its storage, such as "/dev/loop3"; empty if there is none. */
void probe_loop(const char *path, char text[PROBE_TEXT]);

#endif
