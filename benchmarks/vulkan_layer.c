/* A Vulkan layer that writes a line for each command that ML Drift, through Dawn, records or allocates with:

     dispatch    barrier    copy    allocate HANDLE BYTES    free HANDLE

   to the file that PECORE_TRACE names, in the order of the calls. `benchmarks/dispatches.py` compiles it, puts it between
   the delegate and the driver, and counts. One instance and one device at a time, which is all that a run has. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

static PFN_vkGetInstanceProcAddr next_instance;
static PFN_vkGetDeviceProcAddr next_device;
static VkInstance instance;
static VkDevice device;
static int trace = -1;

#define NEXT(name) ((PFN_vk##name)next_device(device, "vk" #name))

static VKAPI_ATTR VkResult VKAPI_CALL CreateInstance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *own,
                                                     VkInstance *made) {
    VkLayerInstanceCreateInfo *link = (VkLayerInstanceCreateInfo *)info->pNext;
    while (link->sType != VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO || link->function != VK_LAYER_LINK_INFO)
        link = (VkLayerInstanceCreateInfo *)link->pNext;
    next_instance = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    VkResult result = ((PFN_vkCreateInstance)next_instance(NULL, "vkCreateInstance"))(info, own, made);
    instance = *made;
    return result;
}

static VKAPI_ATTR VkResult VKAPI_CALL CreateDevice(VkPhysicalDevice physical, const VkDeviceCreateInfo *info,
                                                   const VkAllocationCallbacks *own, VkDevice *made) {
    VkLayerDeviceCreateInfo *link = (VkLayerDeviceCreateInfo *)info->pNext;
    while (link->sType != VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO || link->function != VK_LAYER_LINK_INFO)
        link = (VkLayerDeviceCreateInfo *)link->pNext;
    PFN_vkGetInstanceProcAddr get = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    next_device = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    VkResult result = ((PFN_vkCreateDevice)get(instance, "vkCreateDevice"))(physical, info, own, made);
    device = *made;
    if (trace < 0) trace = open(getenv("PECORE_TRACE"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    return result;
}

static VKAPI_ATTR void VKAPI_CALL CmdDispatch(VkCommandBuffer buffer, uint32_t x, uint32_t y, uint32_t z) {
    dprintf(trace, "dispatch\n");
    NEXT(CmdDispatch)(buffer, x, y, z);
}

static VKAPI_ATTR void VKAPI_CALL CmdPipelineBarrier(VkCommandBuffer buffer, VkPipelineStageFlags from,
                                                     VkPipelineStageFlags to, VkDependencyFlags flags, uint32_t memories,
                                                     const VkMemoryBarrier *memory, uint32_t buffers,
                                                     const VkBufferMemoryBarrier *of_buffers, uint32_t images,
                                                     const VkImageMemoryBarrier *of_images) {
    dprintf(trace, "barrier\n");
    NEXT(CmdPipelineBarrier)(buffer, from, to, flags, memories, memory, buffers, of_buffers, images, of_images);
}

static VKAPI_ATTR void VKAPI_CALL CmdCopyBuffer(VkCommandBuffer buffer, VkBuffer from, VkBuffer to, uint32_t count,
                                                const VkBufferCopy *regions) {
    dprintf(trace, "copy\n");
    NEXT(CmdCopyBuffer)(buffer, from, to, count, regions);
}

static VKAPI_ATTR VkResult VKAPI_CALL AllocateMemory(VkDevice of, const VkMemoryAllocateInfo *info,
                                                     const VkAllocationCallbacks *own, VkDeviceMemory *made) {
    VkResult result = NEXT(AllocateMemory)(of, info, own, made);
    if (result == VK_SUCCESS)
        dprintf(trace, "allocate %p %llu\n", (void *)*made, (unsigned long long)info->allocationSize);
    return result;
}

static VKAPI_ATTR void VKAPI_CALL FreeMemory(VkDevice of, VkDeviceMemory memory, const VkAllocationCallbacks *own) {
    dprintf(trace, "free %p\n", (void *)memory);
    NEXT(FreeMemory)(of, memory, own);
}

#define OWN(function) \
    if (!strcmp(name, "vk" #function)) return (PFN_vkVoidFunction)function

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetDeviceProcAddr(VkDevice of, const char *name) {
    OWN(CmdDispatch);
    OWN(CmdPipelineBarrier);
    OWN(CmdCopyBuffer);
    OWN(AllocateMemory);
    OWN(FreeMemory);
    if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)vkGetDeviceProcAddr;
    return next_device(of, name);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance of, const char *name) {
    OWN(CreateInstance);
    OWN(CreateDevice);
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (PFN_vkVoidFunction)vkGetInstanceProcAddr;
    if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)vkGetDeviceProcAddr;
    return next_instance(of, name);
}
