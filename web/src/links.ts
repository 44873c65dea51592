/** Addresses of the dashboard's pages. */
import type { Place } from "./api/client";

export const tableLink = ({ model, source }: Place) => `/${encodeURIComponent(model)}/${encodeURIComponent(source)}`;

export const featureLink = (place: Place, index: number) => `${tableLink(place)}/${index}`;

export const steerLink = (place: Place, index?: number) => `${tableLink(place)}/steer${index === undefined ? "" : `?feature=${index}`}`;
